"""Runs that were stopped go on: a folder for each, its checkpoints, and who may write there.

    $ADAPTERS_HOME/runs/<key>.lock         held by the process that trains it
    $ADAPTERS_HOME/runs/<key>/             (~/.adapters where $ADAPTERS_HOME is not set)
        rows/                              the prepared dataset; made again by each process
        checkpoints/checkpoint-<step>/     see `train.checkpoints`
        adapter/                           trained, and not published yet; appears by one rename
        metrics.json

The key is the hash of everything that decides the weights. The folder goes once its version is
published, so what is there was stopped and can go on; `adapters.runs` has the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from adapters.files import fsync_folder
from adapters.runs import held, runs_folder

INDIFFERENT = frozenset({"save_steps", "report_to"})
"""Recipe keys that do not reach the weights."""
WHOLE = "whole.json"
"""What a checkpoint's folder holds once all else is there."""
_SOURCE = ("path", "sha256", "revision", "share")


def run_key(
    base: Mapping[str, Any],
    recipe: Mapping[str, Any],
    dataset: Mapping[str, Any],
    code: Mapping[str, str],
) -> str:
    """Return 16 hex digits of what decides a run's weights, all as a manifest keeps it.

    Of the dataset, and of those beside it (`eval_dataset`, `replay`), only what they are counts,
    not what was found in them.
    """
    sources: dict[str, Any] = {"dataset": dataset}
    sources |= {name: dataset[name] for name in ("eval_dataset", "replay") if dataset.get(name)}
    decides = {
        "base": base,
        "recipe": {key: value for key, value in recipe.items() if key not in INDIFFERENT},
        "sources": {
            name: {key: source[key] for key in _SOURCE if key in source}
            for name, source in sources.items()
        },
        "code": code,
    }
    text = json.dumps(decides, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunFolder:
    """One run's folder. Only who holds its lock (`held`) may write there."""

    def __init__(self, key: str) -> None:
        self.path = runs_folder() / key
        self.rows = self.path / "rows"
        self.checkpoints = self.path / "checkpoints"
        self.adapter = self.path / "adapter"
        self._metrics = self.path / "metrics.json"

    def held(self, waiting: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Hold the folder, alone; see `adapters.runs.held`."""
        return held(self.path, waiting)

    def step(self) -> int:
        """Return the step from which it can go on: that of the last whole checkpoint, or 0."""
        return max(map(step_of, whole_checkpoints(self.checkpoints)), default=0)

    def clear(self) -> None:
        """Remove all that is in it, and itself."""
        shutil.rmtree(self.path, ignore_errors=True)

    def trained(self) -> dict[str, float] | None:
        """Return the metrics of a run that is trained and not published; None where it is not."""
        return json.loads(self._metrics.read_text()) if self.adapter.is_dir() else None

    @contextmanager
    def training(self) -> Iterator[tuple[Path, dict[str, float]]]:
        """Give a folder and metrics to fill; they count once all of them are there."""
        part = self.path / "adapter.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        metrics: dict[str, float] = {}
        try:
            yield part, metrics
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._metrics.write_text(json.dumps(metrics))
        make_durable(part)
        make_durable(self._metrics)
        part.rename(self.adapter)
        fsync_folder(self.path)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def make_durable(path: Path) -> None:
    """Have a file, or all the files below a folder, on the disk before anything else is."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def whole_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder that were written to their end."""
    return [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])
