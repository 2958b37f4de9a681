"""Start `adapters serve` as a child, wait until it is ready, and always end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from adapters.errors import Unavailable

# `-P`: a serve.py or train.py in the working directory must not stand in for ours.
ADAPTERS = (sys.executable, "-P", "-c", "from adapters.cli import main; main()")
_TAIL_LINES = 15
_END_TIMEOUT_S = 30


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(arguments: Sequence[str], log: Path, *, timeout_s: float = 600) -> Iterator[str]:
    """Run `adapters serve ARGUMENTS` on a free port while the block runs; yield its URL.

    Its $ADAPTERS_HOME is the log's folder, so it asks for no key that is not made there.

    Raises:
        Unavailable: as `running`.
    """
    port = free_port()
    command = [*ADAPTERS, "serve", "--port", str(port), *arguments]
    own = {**os.environ, "ADAPTERS_HOME": str(log.parent)}
    own.pop("VLLM_API_KEY", None)
    url = f"http://127.0.0.1:{port}"
    with running(command, url, "/ready", log, timeout_s=timeout_s, environment=own) as url:
        yield url


@contextmanager
def running(
    command: Sequence[str],
    url: str,
    ready: str,
    log: Path,
    *,
    timeout_s: float = 600,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run a server while the block runs; yield its URL once GET `ready` succeeds.

    The server gets its own session, so Ctrl-C reaches only us and we end it in order: SIGTERM,
    then SIGKILL to its whole group. Its output goes to `log`.

    Raises:
        Unavailable: it ended or was not ready in time; the message holds the log's tail.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    try:
        _wait(process, f"{url}{ready}", log, timeout_s)
        yield url
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(ready, timeout=5):
            return
        time.sleep(0.3)
    tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    what = "is not ready yet" if process.poll() is None else "ended"
    raise Unavailable(f"The server {what}. Its log ends:\n  {tail}", fix=f"All of it: {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):  # nothing left in its group: the usual case
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
