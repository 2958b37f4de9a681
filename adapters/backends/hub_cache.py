"""Commits of the Hub as folders of this machine: fetched once, verified, shared, never changed.

    $ADAPTERS_HOME/cache/hub/<org>/<name>/     (~/.adapters where $ADAPTERS_HOME is not set)
        <commit sha>.json        the manifest as that commit holds it
        <commit sha>/            the whole version, read-only, every byte checked
        .<commit sha>.part/      a download under way, or one that was killed: the next goes on
        .staging-…/              a publication under way, or one that was killed: the next clears

A commit's content never changes, so what is here is never out of date, and it may be removed as
a whole at any time that no server runs. A folder appears by one rename. Each process reads it
once before it trusts it; what was damaged meanwhile is fetched again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from adapters.backends.hub_calls import Calls
from adapters.backends.hub_errors import on_disk
from adapters.errors import InvalidAdapter, RegistryUnavailable
from adapters.files import (
    ALLOWED,
    MANIFEST_FILE,
    copy_in,
    differences,
    fsync_folder,
    make_folder,
    seal,
    write_durably,
)
from adapters.home import hub_cache
from adapters.types import File, Manifest

MOST_MANIFEST_BYTES = 4 << 20
_STALE_S = 24 * 3600
_STAGING = ".staging-"


class Cache:
    """Where one organisation's commits are kept on this machine."""

    def __init__(self, calls: Calls) -> None:
        self._root = hub_cache(calls.org)
        self._calls = calls
        self._checked: set[Path] = set()

    def manifest(self, name: str, sha: str) -> Manifest:
        """Return the manifest of a commit; only that file is fetched.

        Raises:
            RegistryUnavailable: it holds none, or one that cannot be understood or trusted.
        """
        kept = self._root / name / f"{sha}.json"
        where = f"{self._calls.repo(name)} at {sha[:12]}"
        with on_disk(kept):
            with suppress(FileNotFoundError, RegistryUnavailable):
                return _understood(kept.read_bytes(), where)
            make_folder(kept.parent)
            with FileLock(kept.with_name(f".{sha}.lock")):
                raw = self._fetch_manifest(name, sha)
                written = kept.with_name(f".{sha}.json")
                written.unlink(missing_ok=True)  # of one that was killed
                write_durably(written, raw)
                written.rename(kept)
        return _understood(raw, where)

    def _fetch_manifest(self, name: str, sha: str) -> bytes:
        sizes = self._calls.files(name, sha)
        if sizes.get(MANIFEST_FILE, 0) > MOST_MANIFEST_BYTES:
            raise RegistryUnavailable(
                f"The manifest of {self._calls.repo(name)} at {sha[:12]} is too large.",
                fix="Publish it again as a new version; do not edit adapters on the Hub's pages.",
            )
        raw = self._calls.content(name, sha, MANIFEST_FILE)
        where = f"{self._calls.repo(name)} at {sha[:12]}"
        if raw is None:
            raise RegistryUnavailable(
                f"{where} has no {MANIFEST_FILE}.", fix="Publish there with: adapters push"
            )
        files = _understood(raw, where).files
        wrong = sorted(path for path in files if path not in ALLOWED) or [
            path for path, file in files.items() if sizes.get(path) != file.size_bytes
        ]
        if wrong:
            raise RegistryUnavailable(
                f"{where} is not what its manifest says: {', '.join(map(repr, wrong[:5]))}.",
                fix="Publish it again as a new version; do not edit adapters on the Hub's pages.",
            )
        return raw

    def folder(self, name: str, sha: str) -> Path:
        """Return the folder of a commit; fetches it where it is not here, or was damaged here.

        Processes that ask at once wait for one download. One that was killed is gone on with.

        Raises:
            InvalidAdapter: what came is not what the manifest says.
            RegistryUnavailable: the Hub cannot be read, or this machine's disk not written.
        """
        target = self._root / name / sha
        content = self.manifest(name, sha)
        if self._is_whole(target, content):
            return target
        part = target.with_name(f".{sha}.part")
        with on_disk(target):
            make_folder(target.parent)
            with FileLock(target.with_name(f".{sha}.lock")):
                if self._is_whole(target, content):
                    return target
                _discard(target)
                resumed = part.is_dir()
                wrong = self._fetch(name, sha, part, content)
                if wrong and resumed:  # what was there of it may be what is wrong
                    _discard(part)
                    wrong = self._fetch(name, sha, part, content)
                if wrong:
                    _discard(part)
                    raise InvalidAdapter(
                        f"{content.name}@v{content.version} of {self._calls.org} is not what was "
                        f"published: {'; '.join(wrong)}.",
                        fix="Publish it again as a new version.",
                    )
                for path in content.files:
                    with (part / path).open("rb") as stream:
                        seal(stream.fileno())
                kept = (self._root / name / f"{sha}.json").read_bytes()
                write_durably(part / MANIFEST_FILE, kept)
                self._settle(part, target)
        return target

    def _is_whole(self, target: Path, content: Manifest) -> bool:
        if target not in self._checked and target.is_dir():
            with on_disk(target):
                if not differences(target, content.files):
                    self._checked.add(target)
        return target in self._checked and target.is_dir()

    def _fetch(self, name: str, sha: str, part: Path, content: Manifest) -> list[str]:
        """Fetch what is missing of a version; return what is wrong with it then."""
        part.mkdir(exist_ok=True)
        (part / MANIFEST_FILE).unlink(missing_ok=True)
        for path, file in content.files.items():
            self._calls.download(name, sha, path, part / path, file.size_bytes)
        return differences(part, content.files)

    @contextmanager
    def staging(
        self, name: str, folder: Path, paths: list[str]
    ) -> Iterator[tuple[Path, dict[str, File]]]:
        """Copy `paths` out of `folder` for a publication, hashing them; gone afterwards."""
        home = self._root / name
        self.sweep(name)
        with on_disk(home):
            make_folder(home)
            with FileLock(home / ".lock"):
                staged = Path(tempfile.mkdtemp(dir=home, prefix=_STAGING))
                descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            with on_disk(home):
                files = {path: copy_in(folder / path, staged / path) for path in paths}
            yield staged, files
        finally:
            _discard(staged)
            os.close(descriptor)

    def keep(self, name: str, sha: str, staged: Path) -> None:
        """Take what was just published from a staged folder, so that it need not be fetched."""
        target = self._root / name / sha
        with on_disk(target), suppress(FileExistsError):
            self._settle(staged, target)

    def copies(self, name: str) -> Iterator[tuple[int, Path]]:
        """Yield numbers and folders of the versions that are here; 0: nobody knows which."""
        for path in (self._root / name).glob("[0-9a-f]*/"):
            try:
                content = _understood((path / MANIFEST_FILE).read_bytes(), str(path))
                yield content.version, path
            except (OSError, RegistryUnavailable):
                yield 0, path

    def remove(self, copy: Path) -> int:
        """Remove one of the `copies`; return the bytes that freed."""
        with on_disk(copy):
            return _discard(copy)

    def sweep(self, name: str, gone: Collection[int] = ()) -> int:
        """Remove versions that are `gone`, what killed publications left, downloads left for a day.

        Returns how many bytes that freed.
        """
        home, freed = self._root / name, 0
        if not home.is_dir():
            return 0
        for number, path in self.copies(name):
            freed += self.remove(path) if number in gone else 0
        with on_disk(home), FileLock(home / ".lock"):
            for left in home.glob(f"{_STAGING}*"):
                with suppress(FileNotFoundError):  # its writer finished
                    freed += _discard_if_left(left)
            for left in home.glob(".*.part"):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    with suppress(Timeout), FileLock(left.with_suffix(".lock"), timeout=0):
                        freed += _discard(left)
        return freed

    def _settle(self, staged: Path, target: Path) -> None:
        staged.chmod(0o555)
        fsync_folder(staged)
        try:
            staged.rename(target)
        except OSError:
            staged.chmod(0o755)
            if not target.is_dir():
                raise
        else:
            self._checked.add(target)
        fsync_folder(target.parent)


def _discard(folder: Path) -> int:
    """Remove a folder, read-only or not, where it is there; return the bytes that freed."""
    if not folder.is_dir():
        return 0
    freed = sum(path.lstat().st_size for path in folder.iterdir())
    folder.chmod(0o755)
    shutil.rmtree(folder)
    return freed


def _discard_if_left(staged: Path) -> int:
    """Remove a staging folder that no living writer holds; return the bytes that freed."""
    descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _discard(staged)
    except BlockingIOError:
        return 0
    finally:
        os.close(descriptor)


def _understood(raw: bytes, where: str) -> Manifest:
    try:
        return Manifest.from_json(json.loads(raw))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryUnavailable(
            f"The manifest of {where} cannot be understood: {error}.",
            fix="A later release wrote it, or it was edited: update, or publish anew.",
        ) from error
