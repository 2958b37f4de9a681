"""Nothing of an engine outlives its server."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

SCRIPT = """
import ctypes, os, signal, subprocess, sys, time
from serve.engines.processes import adopt_orphans, end_children

stubborn = (
    "import ctypes, os, signal, subprocess, sys, time\\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
    "ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)\\n"  # PR_SET_NAME
    "print(os.getpid(), flush=True)\\n"
    "time.sleep(60)\\n"
)
starter = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])"
adopt_orphans()
pids = {}
for name in ("VLLM::Worker", "other"):
    made = subprocess.Popen([sys.executable, "-c", starter, stubborn, name],
                            stdout=subprocess.PIPE, text=True)
    pids[name] = int(made.stdout.readline())
    made.wait()
began = time.monotonic()
assert end_children("VLLM::", patience_s=0.3) == [pids["VLLM::Worker"]]
assert time.monotonic() - began > 0.25
assert end_children("VLLM::", patience_s=60) == []
os.kill(pids["other"], 0)
os.kill(pids["other"], signal.SIGKILL)
print("good")
"""


def test_a_dead_engines_workers_are_waited_for_then_killed_and_nothing_else() -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.stdout.endswith("good\n"), done.stderr
