"""Runs in processes of their own, that may be killed: forked from one that has imported all."""

from __future__ import annotations

import json
import os
import signal
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.cli import main
from adapters.demo.task import split
from adapters.registry import Registry
from train.run import Job, run
from train.trial import IMPORTED

_CONTEXT = get_context("forkserver")
_METHODS = [f"train.methods.{each}" for each in ("dpo", "kto", "online", "reward", "sft")]
_CONTEXT.set_forkserver_preload(
    ["tests.train.runs", *IMPORTED, *_METHODS, "train.prepare", "bitsandbytes"]
)


def support_rows(folder: Path, count: int) -> str:
    """Write so many of the demo's messages to a customers' support; return the file's path."""
    path = folder / "support.jsonl"
    rows, _ = split(count, 8)
    path.write_text("".join(json.dumps(example.row()) + "\n" for example in rows))
    return str(path)


class Killed(TrainerCallback):  # type: ignore[misc]
    """SIGKILL, by its own hand, at one event of one step: before anything else hears of it."""

    def __init__(self, event: str, step: int) -> None:
        setattr(self, event, self._kill)
        self._step = step

    def _kill(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def start(target: Any, home: Path, said: Path, *arguments: Any, daemon: bool = True) -> Any:
    """Start a function in a process of its own; what it says on stderr goes into a file.

    One that starts processes itself may be no `daemon`, in multiprocessing's sense.
    """
    given = (target, home, said, *arguments)
    process = _CONTEXT.Process(target=_enter, args=given, daemon=daemon)
    process.start()
    return process


def train_once(home: Path, job: Job, kill: tuple[str, int] | None = None) -> None:
    """Run a job; `kill`: the event of transformers' and the step at which it ends."""
    run(job, Registry.open(home), callbacks=[Killed(*kill)] if kill else [])


def command(_: Path, *arguments: str) -> None:
    """Run the command line."""
    main(arguments)


def _enter(target: Any, home: Path, said: Path, *arguments: Any) -> None:
    os.environ["ADAPTERS_HOME"] = str(home)
    sys.stderr = said.open("a", buffering=1)
    target(home, *arguments)
