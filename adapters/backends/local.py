"""`RegistryBackend` in a local folder.

    <root>/adapters/<name>/
        v3/                      a plain PEFT folder plus manifest.json, read-only
        v2/tombstone.json        what is left of a deleted version: its number stays taken
        aliases/<alias>.jsonl    experiments/<experiment>.jsonl    log.jsonl
        .staging-<publish id>/   a publication under way, or one that was killed

A version appears by one rename of a staged and fsynced folder onto `vN`, which fails where
`vN` exists: that rename is the claim. It is deleted by one rename too, of a fsynced tombstone
into `vN`: so its number is never free, and the other files go with a later sweep.

Readers take no lock. Writers of one adapter take `.lock` (flock, gone with the process) so that
they need not race for the claim. A staging folder is flocked by its writer, and made and swept
under `.lock`: what a killed writer left is told at once from what is under way.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from adapters.backends.base import Line
from adapters.backends.encoding import MOST_DOCUMENT_BYTES, encoded
from adapters.errors import Conflict, NotFound, RegistryUnavailable
from adapters.files import (
    MANIFEST_FILE,
    copy_in,
    fsync_folder,
    make_folder,
    open_plain,
    read_up_to,
    write_durably,
)
from adapters.lines import Mark, append_line, mark_of, read_lines
from adapters.types import File, Manifest, Version, is_name

_STAGING = ".staging-"
_HOST = re.sub(r"[^A-Za-z0-9.]", "_", platform.node())[:64]
_STALE_STAGING_S = 24 * 3600
"""For staging folders of other machines, whose locks may not be seen from here."""
_LOCK_TIMEOUT_S = 60
TOMBSTONE_FILE = "tombstone.json"
_VERSION_FOLDER = re.compile(r"v([1-9][0-9]{0,8})")
_JOURNAL_SUFFIX = ".jsonl"


class LocalBackend:
    """A registry in a folder of this machine. See the module's docstring and the port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._adapters = root / "adapters"
        self._met = False
        self._opened: dict[str, Version] = {}
        self._journals: dict[Path, tuple[Mark, list[Line]]] = {}

    @property
    def location(self) -> str:
        return str(self.root)

    @property
    def exclusive(self) -> bool:
        return True

    def names(self) -> list[str]:
        with _translated(self._adapters, "read"):
            folders = _entries(self._adapters)
            if self._met and not folders and not self._adapters.exists():
                # An unmounted disk, say. Nobody deletes it whole: deletions leave tombstones.
                raise FileNotFoundError(errno.ENOENT, "It is gone", str(self._adapters))
        self._met = self._met or bool(folders)
        return [
            e
            for e in folders
            if is_name(e) and os.path.isdir(f"{self._adapters}/{e}") and any(self._living(e))
        ]

    def numbers(self, name: str) -> list[int]:
        return list(self._living(name))

    def _living(self, name: str) -> Iterator[int]:
        """Yield the numbers of the versions that exist, ascending."""
        home = self._adapters / name
        with _translated(home, "read"):
            for number in self._taken(name):
                if _is_version(folder := f"{home}/v{number}"):
                    yield number
                else:  # or a server would remember all that there ever were
                    self._opened.pop(folder, None)

    def open(self, name: str, number: int) -> Version:
        path = self._adapters / name / f"v{number}"
        # Immutable, so read once; a deleted one must be noticed, so look for it every time.
        with _translated(path, "read"):
            living, deleted = _is_version(str(path)), (path / TOMBSTONE_FILE).exists()
        if not living:
            self._opened.pop(str(path), None)
            raise NotFound(
                f"{name}@v{number} {'was deleted' if deleted else 'does not exist'}.",
                fix=f"See: adapters list {name}",
            )
        if str(path) not in self._opened:
            with _translated(path, "read"), _understood(path / MANIFEST_FILE):
                if path.is_symlink():
                    raise ValueError("its folder is a link")
                with open_plain(path / MANIFEST_FILE) as stream:
                    read = json.loads(read_up_to(stream, MOST_DOCUMENT_BYTES))
                content = Manifest.from_json(read)
                if (content.name, content.version) != (name, number):
                    raise ValueError(f"it is that of {content.name}@v{content.version}")
                self._opened[str(path)] = Version(content, path)
        return self._opened[str(path)]

    def publish(
        self,
        name: str,
        folder: Path,
        paths: list[str],
        manifest: Callable[[int, Mapping[str, File]], Manifest],
        *,
        at_least: int = 1,
    ) -> Version:
        home = self._adapters / name
        with _translated(home, "write"):
            self._sweep_staging(name)
            with self._staging(name) as staged:
                files = {path: copy_in(folder / path, staged / path) for path in paths}
                with self.writing(name):
                    return self._claim(name, staged, at_least, lambda n: manifest(n, files))

    def _claim(
        self, name: str, staged: Path, at_least: int, manifest: Callable[[int], Manifest]
    ) -> Version:
        number = max([*self._taken(name), at_least - 1])
        while True:
            number += 1
            content = manifest(number)
            (staged / MANIFEST_FILE).unlink(missing_ok=True)
            write_durably(staged / MANIFEST_FILE, encoded(content.as_json(), indent=2))
            staged.chmod(0o555)  # before the rename: a version is never seen writable
            fsync_folder(staged)
            target = staged.parent / f"v{number}"
            try:
                staged.rename(target)
            except OSError:
                if not target.exists():
                    raise
                staged.chmod(0o755)
                continue  # a writer that takes no lock was first (a network share, say)
            fsync_folder(target.parent)
            return Version(content, target)

    def _taken(self, name: str) -> list[int]:
        """Return every number ever used, deleted versions included."""
        with _translated(self._adapters / name, "read"):
            entries = _entries(self._adapters / name)
        return sorted(int(found[1]) for e in entries if (found := _VERSION_FOLDER.fullmatch(e)))

    def delete(self, name: str, number: int, line: Line) -> None:
        home, tombstone = self._adapters / name, encoded(line, indent=2)
        version = home / f"v{number}"
        with _translated(version, "write"):
            if not _is_version(str(version)):
                self.open(name, number)  # says whether it ever was
            if version.is_symlink():
                raise RegistryUnavailable(
                    f"{version} is a link, not a version's folder.", fix=f"Remove it: rm {version}"
                )
            with self.writing(name), self._staging(name) as staged:
                if not _is_version(str(version)):
                    self.open(name, number)  # another writer was first
                write_durably(staged / TOMBSTONE_FILE, tombstone)
                version.chmod(0o755)
                (staged / TOMBSTONE_FILE).rename(version / TOMBSTONE_FILE)  # deleted from here on
                fsync_folder(version)
        self._opened.pop(str(version), None)

    def sweep(self, name: str, held: Collection[int] = ()) -> int:
        home = self._adapters / name
        if not _exists(home):
            return 0
        with _translated(home, "write"), self.writing(name):
            freed = self._sweep_staging(name)
            for number in {*self._taken(name)} - {*held}:
                freed += _finish(home / f"v{number}")
        return freed

    def _sweep_staging(self, name: str) -> int:
        home = self._adapters / name
        if not _exists(home):
            return 0
        with self.writing(name):
            return sum(_discard_if_left(left) for left in home.glob(f"{_STAGING}*"))

    def journals(self, name: str, kind: str) -> list[str]:
        folder = self._adapters / name / kind
        with _translated(folder, "read"):
            entries = [e for e in _entries(folder) if e.endswith(_JOURNAL_SUFFIX)]
        stems = [entry.removesuffix(_JOURNAL_SUFFIX) for entry in entries]
        return [f"{kind}/{stem}" for stem in stems if is_name(stem)]

    def read(self, name: str, journal: str) -> list[Line]:
        path = self._journal(name, journal)
        with _translated(path, "read"), _understood(path):
            try:
                stream = open_plain(path)
            except FileNotFoundError:
                return []
            with stream:  # servers look four times a second: read again only what has changed
                mark = mark_of(stream)
                known = self._journals.get(path)
                if known is None or known[0] != mark:
                    known = self._journals[path] = mark, read_lines(stream)
        return list(known[1])

    def append(self, name: str, journal: str, line: Line, *, expect: int | None = None) -> None:
        path = self._journal(name, journal)
        written = encoded(line)
        with self.writing(name), _translated(path, "write"):
            if expect is not None and len(self.read(name, journal)) != expect:
                raise Conflict(f"{name}: {journal} changed meanwhile.", fix="Look, and try again.")
            append_line(path, written)

    def check_writable(self) -> None:
        with _translated(self._adapters, "write"):
            make_folder(self._adapters)
            with tempfile.TemporaryFile(dir=self._adapters):
                pass

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        home = self._adapters / name
        # One lock object a path: reentrant, so publish and append may run inside a wider block.
        lock = FileLock(home / ".lock", timeout=_LOCK_TIMEOUT_S, is_singleton=True)
        with _translated(home, "write"):
            make_folder(home)
            try:
                lock.acquire()
            except Timeout as error:
                raise RegistryUnavailable(
                    f"Another writer has held {name} for {_LOCK_TIMEOUT_S} s.",
                    fix=f"Wait for it, or find it: fuser {home / '.lock'}",
                ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _staging(self, name: str) -> Iterator[Path]:
        """Make a folder to write in, locked for as long; what is left of it then is removed."""
        staged = self._adapters / name / f"{_STAGING}{_HOST}-{os.getpid()}-{time.time_ns():x}"
        with self.writing(name):
            staged.mkdir()
            descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # where it cannot be locked it cannot be swept either
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            yield staged
        finally:
            os.close(descriptor)
            _discard(staged)

    def _journal(self, name: str, journal: str) -> Path:
        return self._adapters / name / f"{journal}{_JOURNAL_SUFFIX}"


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(e for e in os.listdir(folder) if not e.startswith("."))
    except FileNotFoundError:
        return []


def _exists(path: Path) -> bool:
    with _translated(path, "read"):
        return path.exists()


def _is_version(folder: str) -> bool:
    """Say whether a folder is a version: published, and not deleted. Texts: it is asked often."""
    manifest, tombstone = f"{folder}/{MANIFEST_FILE}", f"{folder}/{TOMBSTONE_FILE}"
    return os.path.exists(manifest) and not os.path.exists(tombstone)


def _discard(staged: Path) -> None:
    with suppress(OSError):
        staged.chmod(0o755)
    shutil.rmtree(staged, ignore_errors=True)


def _discard_if_left(staged: Path) -> int:
    """Remove a staging folder that nobody writes in any more; return the bytes that freed."""
    ours = staged.name.startswith(f"{_STAGING}{_HOST}-")
    try:
        if not ours and time.time() - staged.stat().st_mtime < _STALE_STAGING_S:
            return 0
        descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return 0  # its writer finished
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody holds it, or it cannot be locked here
        return 0
    else:
        freed = sum(path.lstat().st_size for path in staged.iterdir())
        _discard(staged)
        return freed
    finally:
        os.close(descriptor)


def _finish(version: Path) -> int:
    """End a deletion; return how many bytes that freed. Under the lock.

    A folder that can be written is one that a deletion has begun with and not ended.
    """
    mode = version.lstat().st_mode
    if not stat.S_ISDIR(mode) or not mode & 0o222:
        return 0
    freed = 0
    if (version / TOMBSTONE_FILE).exists():
        for left in version.iterdir():
            if left.name != TOMBSTONE_FILE:
                freed += left.lstat().st_size
                left.unlink()
    elif not (version / MANIFEST_FILE).exists():
        return 0  # not ours
    version.chmod(0o555)
    return freed


@contextmanager
def _translated(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RegistryUnavailable(
            f"Cannot {verb} the registry at {error.filename or path}: {reason}.",
            fix="Free some space there, look what was done (adapters log), and try again."
            if full
            else "Check the folder and its rights, or name another with --registry.",
        ) from error


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryUnavailable(
            f"The registry's file {path} cannot be understood: {error}.",
            fix="Restore it from a backup; nothing was changed.",
        ) from error
