"""One trial of a sweep, trained in a process of its own: what it takes or breaks ends with it.

The process has no word of Optuna. It sends its validations through a pipe and is told whether to
go on; what it trained lies in its run's folder (`train.resume`), as any run's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from adapters.errors import AdaptersError, Rejected
from train.before import load_tokenizer
from train.plan import Plan, say
from train.prepare import Prepared
from train.resume import RunFolder
from train.run import train_into

IMPORTED = [
    "train.trial", "train.loop", "train.panel", "train.preflight", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
]  # fmt: skip
"""What every trial needs, imported once: some ten seconds."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trial ended. `pruned`: it was not promising, or its loss went wrong."""

    state: Literal["complete", "pruned", "failed"]
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""


def attempt(
    plan: Plan,
    rows: Prepared,
    *,
    title: str,
    metric: str,
    hopeless: Callable[[int, float], bool] = lambda validation, value: False,
) -> Ended:
    """Train a plan in a process and wait for it; what it trained is in the run's folder.

    `hopeless` is told `metric` at each validation that has it, counted from 1, and says whether
    the trial shall end there; of a recipe for several processes it is not asked. Interrupted, the
    process writes a checkpoint first.
    """
    context = multiprocessing.get_context("forkserver")
    if not torch.cuda.is_available():  # a fork of what has looked at a GPU cannot use it
        context.set_forkserver_preload(IMPORTED)
    ours, theirs = context.Pipe()
    arguments = (theirs, dict(os.environ), plan, rows, title, metric)
    process = context.Process(target=_enter, args=arguments)
    process.start()
    theirs.close()
    try:
        while not isinstance(said := _received(ours), Ended):
            ours.send(hopeless(*said))
        return said
    except EOFError:
        process.join()
        return Ended("failed", reason=f"its process ended with {_how(process.exitcode)}")
    except BaseException:
        ours.close()  # it may be waiting for an answer
        process.terminate()
        raise
    finally:
        try:
            process.join()
        finally:
            process.kill()  # of a second interrupt
            ours.close()


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except ConnectionResetError as error:
        raise EOFError from error


def _how(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


# -- in the process -------------------------------------------------------------------------------


class _Pruned(Exception):
    """Not promising."""


class _Validations(TrainerCallback):  # type: ignore[misc]
    """Tell the sweep what validations say, while the run trains."""

    def __init__(self, connection: Connection, metric: str) -> None:
        self._connection = connection
        self._metric = metric
        self._trained = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Tell one; where the run was stopped, those before are counted too."""
        named = {key.replace("/", "_"): value for key, value in (metrics or {}).items()}
        if self._trained or self._metric not in named or not state.is_world_process_zero:
            return
        count = sum("eval_runtime" in entry for entry in state.log_history)
        with suppress(OSError, EOFError):  # the sweep is gone; a signal follows
            self._connection.send((count, named[self._metric]))
            if self._connection.recv():
                raise _Pruned

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take what is measured from here on for the outcome."""
        self._trained = True


def _enter(
    connection: Connection,
    environment: Mapping[str, str],
    plan: Plan,
    rows: Prepared,
    title: str,
    metric: str,
) -> None:
    os.environ.update(environment)
    os.setsid()  # Ctrl-C is the sweep's
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    try:
        ended = _train(connection, plan, rows, title, metric)
    except _Pruned:
        ended = Ended("pruned", reason="worse than the median")
    except Rejected as error:
        ended = Ended("pruned", reason=error.message)
    except AdaptersError as error:
        ended = Ended("failed", reason=str(error))
    except Exception as error:
        ended = Ended("failed", reason=f"{type(error).__name__}: {error}")
    connection.send(ended)


def _train(connection: Connection, plan: Plan, rows: Prepared, title: str, metric: str) -> Ended:
    folder = RunFolder(plan.key)
    with folder.held(lambda: say("another process is at this trial; waiting for it")):
        try:
            alone = plan.job.recipe.num_processes == 1  # else its steps cannot be followed
            told = [_Validations(connection, metric)] if alone else []
            tokenizer = load_tokenizer(plan.base.path)
            metrics = train_into(folder, plan, tokenizer, rows, callbacks=told, title=title)
        except Exception:
            folder.clear()
            raise
    return Ended("complete", metrics)


def _end_with_the_sweep() -> None:
    """End as after a signal, with a checkpoint, where the sweep was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
