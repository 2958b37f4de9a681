"""A real vLLM engine with nothing of ours before it, asked once, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""For bases so small that more threads only wait for each other."""


class Asked:
    """An engine that computes; what it says is there once it has ended."""

    def __init__(self, child: subprocess.Popen[bytes], answer: Path, log: Path) -> None:
        self._child, self._answer, self._log = child, answer, log

    def said(self, timeout_s: float = 400) -> dict[str, Any]:
        """Wait for it; return what it wrote."""
        ended = self._child.wait(timeout_s)
        assert ended == 0, self._log.read_text(errors="replace")[-3000:]
        found: dict[str, Any] = json.loads(self._answer.read_text())
        return found


@contextmanager
def asking(
    module: str, place: Path, request: Mapping[str, Any], **environment: str
) -> Iterator[Asked]:
    """Run `python -m MODULE REQUEST ANSWER` beside the block; `place`: a folder for its files."""
    asked, answer, log = (place / f"{module}.{name}" for name in ("request", "answer", "log"))
    asked.write_text(json.dumps(request))
    with log.open("wb") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(asked), str(answer)],
            stdout=said,
            stderr=said,
            env={
                **os.environ,
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_PLUGINS": "",
                **environment,
            },
        )
    try:
        yield Asked(child, answer, log)
    finally:
        child.kill()
        child.wait()


def ask(module: str, place: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `python -m MODULE REQUEST ANSWER` writes; `place`: a folder for its files."""
    with asking(module, place, request) as asked:
        return asked.said()
