"""`RegistryBackend` in a local folder.

    <root>/adapters/<name>/
        v3/                      a plain PEFT folder plus manifest.json, read-only
        v2/tombstone.json        what is left of a deleted version: its number stays taken
        aliases/<alias>.jsonl    experiments/<experiment>.jsonl    log.jsonl
        .staging-<publish id>/   a publication under way, or one that was killed

A version appears by one rename of a staged and fsynced folder onto `vN`, which fails where
`vN` exists: that rename is the claim. Readers take no lock. Writers of one adapter take
`.lock` (flock, gone with the process) so that they need not race for the claim.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from adapters.backends.base import Line
from adapters.errors import Conflict, NotFound, RegistryUnavailable
from adapters.files import MANIFEST_FILE, copy_in, fsync_folder, write_durably
from adapters.types import File, Manifest, Version

_STAGING = ".staging-"
_STALE_STAGING_S = 24 * 3600
_LOCK_TIMEOUT_S = 60
TOMBSTONE_FILE = "tombstone.json"


class LocalBackend:
    """A registry in a folder of this machine. See the module's docstring and the port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._adapters = root / "adapters"
        self._opened: dict[Path, Version] = {}

    @property
    def location(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        with _translated(self._adapters, "read"):
            folders = _entries(self._adapters)
        return [name for name in folders if self.numbers(name)]

    def numbers(self, name: str) -> list[int]:
        folder = self._adapters / name
        return [n for n in self._taken(name) if (folder / f"v{n}" / MANIFEST_FILE).exists()]

    def open(self, name: str, number: int) -> Version:
        path = self._adapters / name / f"v{number}"
        # Immutable, so read once; a deleted one must be noticed, so look for it every time.
        if not (path / MANIFEST_FILE).exists():
            self._opened.pop(path, None)
            deleted = (path / TOMBSTONE_FILE).exists()
            raise NotFound(
                f"{name}@v{number} {'was deleted' if deleted else 'does not exist'}.",
                fix=f"See: adapters list {name}",
            )
        if path not in self._opened:
            with _translated(path, "read"), _understood(path / MANIFEST_FILE):
                content = json.loads((path / MANIFEST_FILE).read_bytes())
                self._opened[path] = Version(Manifest.from_json(content), path)
        return self._opened[path]

    def publish(
        self,
        name: str,
        folder: Path,
        paths: list[str],
        manifest: Callable[[int, Mapping[str, File]], Manifest],
    ) -> Version:
        home = self._adapters / name
        with _translated(home, "write"):
            home.mkdir(parents=True, exist_ok=True)
            _sweep(home)
            staged = home / f"{_STAGING}{os.getpid()}-{time.time_ns():x}"
            staged.mkdir()
            try:
                files = {path: copy_in(folder / path, staged / path) for path in paths}
                with self.writing(name):
                    return self._claim(name, staged, lambda number: manifest(number, files))
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise

    def _claim(self, name: str, staged: Path, manifest: Callable[[int], Manifest]) -> Version:
        number = max(self._taken(name), default=0)
        while True:
            number += 1
            content = manifest(number)
            (staged / MANIFEST_FILE).unlink(missing_ok=True)
            encoded = json.dumps(content.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
            write_durably(staged / MANIFEST_FILE, encoded.encode() + b"\n")
            fsync_folder(staged)
            target = staged.parent / f"v{number}"
            try:
                staged.rename(target)
            except OSError:
                if not target.exists():
                    raise
                continue  # a writer that takes no lock was first (a network share, say)
            target.chmod(0o555)
            fsync_folder(target.parent)
            return Version(content, target)

    def _taken(self, name: str) -> list[int]:
        """Return every number ever used, deleted versions included."""
        with _translated(self._adapters / name, "read"):
            entries = _entries(self._adapters / name)
        return sorted(int(e[1:]) for e in entries if e[0] == "v" and e[1:].isdecimal())

    def journals(self, name: str, kind: str) -> list[str]:
        folder = self._adapters / name / kind
        with _translated(folder, "read"):
            return [f"{kind}/{e.removesuffix('.jsonl')}" for e in _entries(folder)]

    def read(self, name: str, journal: str) -> list[Line]:
        path = self._journal(name, journal)
        with _translated(path, "read"), _understood(path):
            content = path.read_bytes() if path.exists() else b""
            complete, _, _ = content.rpartition(b"\n")
            return [json.loads(line) for line in complete.splitlines() if line]

    def append(self, name: str, journal: str, line: Line, *, expect: int | None = None) -> None:
        path = self._journal(name, journal)
        encoded = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self.writing(name), _translated(path, "write"):
            if expect is not None and len(self.read(name, journal)) != expect:
                raise Conflict(f"{name}: {journal} changed meanwhile.", fix="Look, and try again.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as stream:
                stream.seek(0)
                whole = stream.read().rpartition(b"\n")
                stream.truncate(len(whole[0]) + len(whole[1]))  # a line cut short by a crash
                stream.write(encoded)
                stream.flush()
                os.fsync(stream.fileno())
            fsync_folder(path.parent)

    def check_writable(self) -> None:
        with _translated(self._adapters, "write"):
            self._adapters.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._adapters):
                pass

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        home = self._adapters / name
        # One lock object a path: reentrant, so publish and append may run inside a wider block.
        lock = FileLock(home / ".lock", timeout=_LOCK_TIMEOUT_S, is_singleton=True)
        with _translated(home, "write"):
            home.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _journal(self, name: str, journal: str) -> Path:
        return self._adapters / name / f"{journal}.jsonl"


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(e for e in os.listdir(folder) if not e.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sweep(home: Path) -> None:
    """Remove what killed publications left, once nobody can still be writing it."""
    for left in home.glob(f"{_STAGING}*"):
        try:
            if time.time() - left.stat().st_mtime > _STALE_STAGING_S:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue  # its writer finished


@contextmanager
def _translated(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RegistryUnavailable(
            f"Cannot {verb} the registry at {error.filename or path}: {reason}.",
            fix="Check the folder and its rights, or name another with --registry.",
        ) from error


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryUnavailable(
            f"The registry's file {path} cannot be understood: {error}.",
            fix="Restore it from a backup; nothing was changed.",
        ) from error
