"""A real vLLM engine with nothing of ours before it, asked once, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def ask(module: str, place: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `python -m MODULE REQUEST ANSWER` writes; `place`: a folder for its files."""
    asked, answer, log = (place / f"{module}.{name}" for name in ("request", "answer", "log"))
    asked.write_text(json.dumps(request))
    with log.open("wb") as said:
        child = subprocess.run(
            [sys.executable, "-m", module, str(asked), str(answer)],
            stdout=said,
            stderr=said,
            timeout=400,
            env={
                **os.environ,
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_PLUGINS": "",
            },
        )
    assert child.returncode == 0, log.read_text(errors="replace")[-3000:]
    found: dict[str, Any] = json.loads(answer.read_text())
    return found
