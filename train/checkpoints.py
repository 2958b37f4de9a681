"""Checkpoints that are whole, and signals that have one written first.

transformers writes a checkpoint file by file. Here `whole.json` in it comes last, once all else is
durable: what a kill interrupted has none, is never gone on from and is removed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import TrainerCallback

from adapters.files import fsync_folder
from train.methods.reference import COPY
from train.resume import WHOLE, make_durable, step_of, whole_checkpoints


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Write one every so many steps, and where a signal ends the run.

    While it is entered, the first SIGINT or SIGTERM ends the run after the step under way and its
    checkpoint, the second at once.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self._folder = folder
        self._every = every
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._started = time.monotonic()

    def latest(self) -> Path | None:
        """Return the last whole checkpoint, to go on from; remove what was being written."""
        whole = whole_checkpoints(self._folder)
        for path in set(self._folder.glob("checkpoint-*")).difference(whole):
            shutil.rmtree(path)
        latest = max(whole, key=step_of, default=None)
        if latest:
            self._started -= json.loads((latest / WHOLE).read_text())["runtime_s"]
        return latest

    @property
    def runtime_s(self) -> float:
        """Seconds of training, those of processes that were stopped included."""
        return time.monotonic() - self._started

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint where one is due."""
        if self._signal or state.global_step % self._every == 0:
            control.should_save = True
        if control.should_training_stop and not args.load_best_model_at_end:
            control.should_save = False  # the adapter itself follows

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark a checkpoint as whole; end where a signal said so.

        One of the last step is never gone on from: a trainer would take a step more.
        """
        if args.world_size > 1:
            torch.distributed.barrier()  # each process writes its own random state
        if args.should_save and not control.should_training_stop:
            checkpoint = self._folder / f"checkpoint-{state.global_step}"
            # A reference is made again; transformers would load it in place of what learns.
            shutil.rmtree(checkpoint / COPY, ignore_errors=True)
            _make_whole(checkpoint, self.runtime_s)
        if self._signal:
            self._end()

    def __enter__(self) -> Checkpoints:
        alone = not torch.distributed.is_initialized()  # several would save at different steps
        if alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore()
        if self._signal and kind is None:  # in the last step, which has no checkpoint
            self._end()

    def _restore(self) -> None:
        for number, before in self._handlers.items():
            signal.signal(number, before)
        self._handlers = {}

    def _end(self) -> NoReturn:
        """End as the signal would have."""
        raise KeyboardInterrupt if self._signal == signal.SIGINT else SystemExit(128 + self._signal)

    def _note(self, number: int, _: Any) -> None:
        self._signal = number
        self._restore()
        with suppress(OSError, ValueError):  # not print: the signal may have come amid another
            os.write(sys.stderr.fileno(), b"Stopping after this step; once more to stop at once.\n")


def _make_whole(checkpoint: Path, runtime_s: float) -> None:
    make_durable(checkpoint)
    part = checkpoint / f".{WHOLE}"
    part.write_text(json.dumps({"runtime_s": runtime_s}))
    make_durable(part)
    part.replace(checkpoint / WHOLE)
    fsync_folder(checkpoint)
    fsync_folder(checkpoint.parent)
