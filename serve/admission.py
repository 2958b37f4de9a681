"""Lets a version into the engine: checked once off the event loop, loaded once, then watched.

The engine trusts a version's files for as long as it knows the name, and a file that is gone
when it reloads an evicted adapter ends the whole process. So nothing gets in whose files are
not exactly those of its manifest, and files that change afterwards shut that version out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import AdaptersError, Rejected, Unavailable
from adapters.files import differences, digest
from adapters.lint import check_adapter, rank_class
from adapters.types import Version
from serve.engine import Engine

_WATCH_S = 1.0
"""How old the last look at a version's files may be."""
_RETRY_S = 5.0
"""How long a refusal stands before the files are read again."""

log = logging.getLogger(__name__)
Marks = tuple[tuple[str, int, int, int], ...]
"""(name, inode, size in bytes, modification time in ns) of each file."""


@dataclass(slots=True)
class _Standing:
    """What is known of one version: in, with its files' marks, or refused, with the reason."""

    marks: Marks = ()
    refusal: AdaptersError | None = None
    looked: float = 0.0


class Admission:
    """Which versions may be asked of the engine. Lives on the event loop."""

    def __init__(
        self,
        engine: Engine,
        base_config: Mapping[str, Any] | None = None,
        holding: Callable[[str], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        """`base_config`: the base's config.json, to check shapes against. `holding`: keeps the
        files of a version, by engine name, from being deleted while it is checked and loaded."""
        self._engine = engine
        self._holding = holding
        self._base_config = base_config
        self._standing: dict[str, _Standing] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def using(self, version: Version) -> AsyncIterator[None]:
        """Have a version in the engine while the block runs.

        Raises:
            Rejected: its rank is above what the engine was started for.
            Unavailable: its files are not what its manifest says, or the engine refused.
        """
        name = version.engine_name
        self._running[name] += 1  # before the first await: `forget` must not take it away
        try:
            await self._admit(version)
            yield
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]

    async def forget(self, known: Set[str]) -> None:
        """Take versions out of the engine that are not `known` any more, once nobody uses them."""
        for name in self._standing.keys() - known:
            if name not in self._running and name not in self._checks:
                del self._standing[name]
                await self._engine.remove(name)
                log.info("%s left the registry and the engine", name)

    async def _admit(self, version: Version) -> None:
        name = version.engine_name
        standing = self._standing.get(name)
        patience_s = _RETRY_S if standing and standing.refusal else _WATCH_S
        if standing is None or time.monotonic() - standing.looked > patience_s:
            if name not in self._checks:
                check = asyncio.create_task(self._check(version))
                self._checks[name] = check
                check.add_done_callback(lambda _: self._checks.pop(name, None))
            # Shielded: one client leaving must not end the check that others wait for.
            await asyncio.shield(self._checks[name])
            standing = self._standing[name]
        if standing.refusal:
            raise standing.refusal

    async def _check(self, version: Version) -> None:
        """Find out how a version stands. Raises nothing of ours: the standing says it."""
        standing = self._standing.setdefault(version.engine_name, _Standing())
        try:
            self._check_rank(version)
            async with self._holding(version.engine_name):
                standing.marks = await asyncio.to_thread(
                    verify, version, standing.marks, self._base_config
                )
                await self._engine.load(version)
            standing.refusal = None
        except AdaptersError as error:
            if standing.refusal is None:
                log.error("%s is not served: %s", version.engine_name, error)
            standing.marks, standing.refusal = (), error
        finally:
            standing.looked = time.monotonic()

    def _check_rank(self, version: Version) -> None:
        rank = version.manifest.peft.get("r") or 0
        if rank > self._engine.max_lora_rank:
            raise Rejected(
                f"{version.ref} has rank {rank}, this server was started for at most "
                f"{self._engine.max_lora_rank}.",
                fix=f"Restart it with: -- --max-lora-rank={rank_class(rank)}",
            )


def verify(
    version: Version, known: Marks = (), base_config: Mapping[str, Any] | None = None
) -> Marks:
    """Check a version's files and return their marks; blocks on the disk.

    Where the marks are the `known` ones nothing is read: published files never change. Else lint
    reads the weights too, though the manifest tells of a lint that passed: who can write a
    version can write that as well, and one NaN spoils the answers of other adapters. It is a
    quarter of the time that the hash takes (30 ms beside 110 ms for 77 MB).

    Raises:
        Unavailable: missing, changed or foreign files, or weights that lint refuses.
    """
    try:
        marks = _marks(version)
        if marks == known:
            return marks
        expected = version.manifest.files
        wrong = differences(version.path, expected)
        if digest(expected) != version.manifest.digest:
            wrong.append("the manifest's digest is not that of its files")
        if not wrong:
            report = check_adapter(version.path, base_config)
            wrong = [f"{finding.where}: {finding.message}" for finding in report.findings]
        if not wrong and _marks(version) != marks:
            wrong.append("its files change just now")
    except OSError as error:
        wrong = [f"{Path(error.filename or '').name}: {error.strerror}"]
    except Rejected as error:
        log.error("%s: %s", version.engine_name, error)  # names paths, which are not for clients
        wrong = ["lint refuses it"]
    if wrong:
        raise Unavailable(
            f"{version.ref} is damaged: {'; '.join(wrong[:3])}.",
            fix="Restore its files from a copy, or publish it again as a new version.",
        )
    return marks


def _marks(version: Version) -> Marks:
    """Look at the files without reading them; following no links."""
    found = []
    for name in sorted(version.manifest.files):
        status = (version.path / name).lstat()
        found.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
