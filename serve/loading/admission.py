"""Lets requests have a version while they run, and takes a version out once nobody does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager, nullcontext

from adapters.types import Version
from serve.loading.residency import Residency


class Admission:
    """Which versions may be asked of the engine. Lives on the event loop."""

    def __init__(self, residency: Residency) -> None:
        self.residency = residency
        self._running: Counter[str] = Counter()
        self.most_together = 0
        """How many versions were in use at once, at most."""

    @property
    def running(self) -> Mapping[str, int]:
        """How many requests use or wait for a version, by engine name; none is left out."""
        return self._running

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many requests wait for a slot, by engine name; none is left out."""
        rotation = self.residency.rotation
        return rotation.waiting if rotation else {}

    @asynccontextmanager
    async def using(self, version: Version, *, computes: bool = True) -> AsyncIterator[None]:
        """Have a version in the engine while the block runs.

        `computes`: whether the block needs its weights, and so a slot.

        Raises:
            Rejected, Unavailable: as `Residency.ready`.
        """
        name = version.engine_name
        self._running[name] += 1  # before the first await: `forget` must not take it away
        try:
            await self.residency.ready(version)
            self.most_together = max(self.most_together, len(self._running))
            async with self.residency.slot(name) if computes else nullcontext():
                standing = await self.residency.ready(version)  # a long wait may have evicted it
                standing.used_at = time.time()
                yield
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]

    async def forget(self, known: Set[str]) -> None:
        """Take versions out of the engine that are not `known` any more, once nobody uses them."""
        for name in self.residency.standings.keys() - known:
            if name not in self._running and not self.residency.is_busy(name):
                await self.residency.drop(name)
