"""Folders of training runs on this machine: who holds one, and which were given up.

    $ADAPTERS_HOME/runs/<key>.lock    held by the process that trains it
    $ADAPTERS_HOME/runs/<key>/        its checkpoints (`train.resume`); gone once it is published

What is there was stopped and can go on. What nobody went on with for long is garbage.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from adapters.errors import Unavailable, UsageError
from adapters.files import make_folder
from adapters.home import home

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class StoppedRun:
    """A run's folder that no process holds."""

    run: str
    """Its key, see `train.resume.run_key`."""
    size_bytes: int
    changed_at: datetime
    """When anything in it last changed."""

    def as_json(self) -> dict[str, object]:
        """Return it as `adapters du --json` prints it."""
        return {**asdict(self), "changed_at": self.changed_at.isoformat(timespec="seconds")}


def runs_folder() -> Path:
    """Return where runs have their folders; it need not exist."""
    return home() / "runs"


def stopped_runs(*, older_than_days: float = 0) -> list[StoppedRun]:
    """Return the runs that no process holds and nothing changed of for so many days, by key.

    Raises:
        UsageError: a number of days below 0.
    """
    if older_than_days < 0:
        raise UsageError(
            f"No run is older than {older_than_days} days.", fix="Use --runs-older-than 0 or more."
        )
    before = time.time() - older_than_days * _DAY_S
    return [
        found
        for path in sorted(runs_folder().glob("*/"))
        if (found := _looked_at(path)) and found.changed_at.timestamp() <= before
        if not _is_held(path)
    ]


def remove_runs(*, older_than_days: float) -> list[StoppedRun]:
    """Remove what `stopped_runs` returns, but for what a process came to hold; return what went.

    Each is held meanwhile: a process that begins the same run waits, and begins anew.

    Raises:
        UsageError: a number of days below 0.
        Unavailable: a folder cannot be removed.
    """
    gone = []
    for stopped in stopped_runs(older_than_days=older_than_days):
        path = runs_folder() / stopped.run
        try:
            with held(path, _leave):
                if _looked_at(path) == stopped:  # nobody has gone on with it just now
                    shutil.rmtree(path)
                    gone.append(stopped)
                elif not any(path.iterdir()):  # nor ended it: `held` made the folder
                    path.rmdir()
        except _Taken:
            continue
        except OSError as error:
            raise Unavailable(
                f"Cannot remove {path}: {error.strerror or error}.",
                fix="Check the folder and its rights.",
            ) from error
    return gone


@contextmanager
def held(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make a folder and hold it, alone; `waiting` is called where another process has it.

    Raises:
        Unavailable: the folder cannot be written.
    """
    try:
        make_folder(folder.parent)
        lock = _lock(folder)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        make_folder(folder)
    except OSError as error:
        raise Unavailable(
            f"Cannot write {folder}: {error.strerror or error}.",
            fix="Check the folder and its rights, or set ADAPTERS_HOME to another.",
        ) from error
    try:
        yield
    finally:
        if not folder.exists():
            # Who waits finds that the file has no name any more, and makes another.
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class _Taken(Exception):
    """Another process holds it."""


def _leave() -> None:
    raise _Taken


def _lock(folder: Path) -> FileLock:
    return FileLock(f"{folder}.lock")


def _is_held(folder: Path) -> bool:
    lock = _lock(folder)
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _looked_at(folder: Path) -> StoppedRun | None:
    """Return what a folder takes; None where it goes at this moment."""
    try:
        stats = [path.lstat() for path in (folder, *folder.rglob("*"))]
    except FileNotFoundError:
        return None
    changed = datetime.fromtimestamp(max(each.st_mtime for each in stats), UTC)
    return StoppedRun(folder.name, sum(each.st_size for each in stats), changed)
