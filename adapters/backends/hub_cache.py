"""Commits of the Hub as folders of this machine: fetched once, verified, shared, never changed.

    $ADAPTERS_HOME/cache/hub/<org>/<name>/     (~/.adapters where $ADAPTERS_HOME is not set)
        <commit sha>.json        the manifest as that commit holds it
        <commit sha>/            the whole version, read-only, every byte checked
        .<commit sha>.part/      a download under way, or one that was killed: the next goes on
        .staging-…/              a publication under way, or one that was killed

A commit's content never changes, so what is here is never out of date, and it may be removed as
a whole at any time that no server runs. A folder appears by one rename.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from adapters.backends.hub_calls import Calls
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
from adapters.types import File, Manifest

MOST_MANIFEST_BYTES = 4 << 20
_STALE_S = 24 * 3600


class Cache:
    """Where one organisation's commits are kept on this machine."""

    def __init__(self, calls: Calls) -> None:
        home = Path(os.environ.get("ADAPTERS_HOME") or "~/.adapters").expanduser().absolute()
        self._root = home / "cache" / "hub" / calls.org
        self._calls = calls

    def manifest(self, name: str, sha: str) -> Manifest:
        """Return the manifest of a commit; only that file is fetched.

        Raises:
            RegistryUnavailable: it holds none, or one that cannot be understood or trusted.
        """
        kept = self._root / name / f"{sha}.json"
        with _local(kept):
            raw = kept.read_bytes() if kept.exists() else None
        if raw is None:
            raw = self._fetch_manifest(name, sha)
            with _local(kept):
                make_folder(kept.parent)
                with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as stream:
                    stream.write(raw)
                    stream.flush()
                    seal(stream.fileno())
                Path(stream.name).rename(kept)
        return _understood(raw, f"{self._calls.repo(name)} at {sha[:12]}")

    def _fetch_manifest(self, name: str, sha: str) -> bytes:
        sizes = self._calls.files(name, sha)
        if sizes.get(MANIFEST_FILE, 0) > MOST_MANIFEST_BYTES:
            raise RegistryUnavailable(f"The manifest of {self._calls.repo(name)} is too large.")
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
        """Return the folder of a commit; fetches it where it is not here yet.

        Processes that ask at once wait for one download. One that was killed is gone on with.

        Raises:
            InvalidAdapter: what came is not what the manifest says.
            RegistryUnavailable: the Hub cannot be read, or this machine's disk not written.
        """
        target = self._root / name / sha
        with _local(target):
            if target.is_dir():
                return target
            make_folder(target.parent)
        content = self.manifest(name, sha)
        part = target.with_name(f".{sha}.part")
        with FileLock(target.with_name(f".{sha}.lock")):
            if target.is_dir():
                return target
            for path in content.files:
                self._calls.persist(
                    f"fetch {path} of {self._calls.repo(name)}",
                    lambda _, path=path: self._calls.api.hf_hub_download(  # type: ignore[misc]
                        self._calls.repo(name), path, revision=sha, local_dir=part
                    ),
                )
            with _local(target):
                shutil.rmtree(part / ".cache", ignore_errors=True)  # the client's own notes
                (part / MANIFEST_FILE).unlink(missing_ok=True)
                if wrong := differences(part, content.files):
                    shutil.rmtree(part)
                    raise InvalidAdapter(
                        f"{content.name}@v{content.version} of {self._calls.org} is not what was "
                        f"published: {'; '.join(wrong)}.",
                        fix="Try again; if it stays so, publish it again as a new version.",
                    )
                for path in content.files:
                    with (part / path).open("rb") as stream:
                        seal(stream.fileno())
                kept = (self._root / name / f"{sha}.json").read_bytes()
                write_durably(part / MANIFEST_FILE, kept)
                self._settle(part, target)
        return target

    @contextmanager
    def staging(
        self, name: str, folder: Path, paths: list[str]
    ) -> Iterator[tuple[Path, dict[str, File]]]:
        """Copy `paths` out of `folder` for a publication, hashing them; gone afterwards."""
        home = self._root / name
        with _local(home):
            make_folder(home)
            staged = Path(tempfile.mkdtemp(dir=home, prefix=".staging-"))
        try:
            with _local(folder):
                files = {path: copy_in(folder / path, staged / path) for path in paths}
            yield staged, files
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def keep(self, name: str, sha: str, staged: Path) -> None:
        """Take what was just published from a staged folder, so that it need not be fetched."""
        target = self._root / name / sha
        with _local(target), suppress(FileExistsError):
            self._settle(staged, target)

    def sweep(self, name: str) -> int:
        """Remove what killed publications left a day ago or more; return the bytes freed."""
        freed = 0
        for left in (self._root / name).glob(".staging-*"):
            with suppress(FileNotFoundError):  # its writer finished
                if time.time() - left.stat().st_mtime > _STALE_S:
                    freed += sum(path.stat().st_size for path in left.iterdir())
                    shutil.rmtree(left, ignore_errors=True)
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
        fsync_folder(target.parent)


def _understood(raw: bytes, where: str) -> Manifest:
    try:
        return Manifest.from_json(json.loads(raw))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryUnavailable(
            f"The manifest of {where} cannot be understood: {error}.",
            fix="A later release wrote it, or it was edited: update, or publish anew.",
        ) from error


@contextmanager
def _local(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryUnavailable(
            f"Cannot read or write {error.filename or path}: {error.strerror or error}.",
            fix="Check the folder and its rights, or set ADAPTERS_HOME to another.",
        ) from error
