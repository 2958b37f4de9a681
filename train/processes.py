"""Several processes that train one adapter: the rows of a step shared among them (DDP).

torch's elastic agent starts them, watches them and ends all when one ends; accelerate, in each,
finds from its environment what it is one of. On CPUs they talk by gloo. The process that was
asked reads the rows and publishes; these only train, and the first of them speaks and writes.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from adapters.errors import AdaptersError, Unavailable, UsageError
from train.checkpoints import Checkpoints
from train.recipe import Recipe

_STOP_S = 5
"""What a process has for ending by itself."""
_MISSED, _READ_S = 120, 600
"""Signs of life of 5 s each that may be missed, and how long an answer may take: on one machine
nobody is lost who is slow, and torch's 3 and 60 s end a run on one that is busy, or was asleep."""


@dataclass(frozen=True, slots=True)
class Share:
    """What each process is told: `train.loop.train`'s arguments."""

    title: str
    recipe: Recipe
    base: Path
    rows: Dataset
    held_out: Dataset | None
    retained: Dataset | None
    places: Sequence[str]
    out: Path
    checkpoints: Path


def train_in_processes(share: Share) -> dict[str, float]:
    """Do what `train.loop.train` does, in the recipe's `num_processes`; return the metrics.

    A signal ends all of them at once; the run goes on from the last of `save_steps`' checkpoints.

    Raises:
        UsageError: more processes than GPUs.
        Unavailable: one was killed, as by a machine that is out of memory.
        KeyboardInterrupt, SystemExit: a signal came.
        The same as `train.loop.train`, once, whichever process met it.
    """
    processes = share.recipe.num_processes
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise UsageError(
            f"There are {torch.cuda.device_count()} GPUs for {processes} processes.",
            fix=f"Use --num-processes {torch.cuda.device_count()}.",
        )
    Checkpoints(share.checkpoints, share.recipe.save_steps).latest()  # removes what is not whole
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # told below, once
    with tempfile.TemporaryDirectory(prefix="adapters-processes-") as scratch:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=share.out.parent.name,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            rdzv_configs={"keep_alive_max_attempt": _MISSED, "read_timeout": _READ_S},
            local_addr="127.0.0.1",
            max_restarts=0,
            shutdown_timeout=_STOP_S,
            logs_specs=DefaultLogsSpecs(log_dir=scratch),
        )
        told = Path(scratch) / "error"
        try:
            metrics = elastic_launch(config, _work)(share, told)[0]
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None
        except ChildFailedError as error:
            if told.exists():
                raise pickle.loads(told.read_bytes()) from None
            raise _failed(error) from None
    return dict(metrics)


def _failed(error: ChildFailedError) -> Exception:
    rank, failure = error.get_first_failure()
    if failure.exitcode == -signal.SIGKILL:
        return Unavailable(
            f"Training process {rank} was killed, most likely for want of memory.",
            fix="Take a smaller --per-device-train-batch-size, or fewer --num-processes.",
        )
    return RuntimeError(f"Training process {rank} failed: {failure.message}")


def _work(share: Share, told: Path) -> dict[str, float]:
    """Train, as one of several."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses optional kernels, aloud
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    from train.before import load_tokenizer
    from train.loop import train
    from train.panel import Panel

    panel = Panel(share.title) if rank == 0 else None
    try:
        with panel or nullcontext():
            return train(
                share.recipe,
                share.base,
                load_tokenizer(share.base),
                share.rows,
                share.held_out,
                out=share.out,
                places=share.places,
                retained=share.retained,
                checkpoints=share.checkpoints,
                callbacks=[panel] if panel else [],
            )
    except AdaptersError as error:
        part = told.with_name(f"error.{rank}")
        part.write_bytes(pickle.dumps(error))
        part.replace(told)
        sys.stderr.flush()
        os._exit(1)  # the others may wait for this one
