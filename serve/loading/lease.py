"""The server's lease on its registry: what its engine knows, or is about to, is not deleted.

The engine reads a version's files again whenever it brings an evicted one back, and ends if they
are gone. So a version is held from before its files are first looked at until the engine has
forgotten it. A deletion puts its tombstone among the files first and looks at leases then: of
the two, whoever comes second sees the other (`adapters.housekeeping`). What cannot be said in the
registry (a read-only folder) is logged and served.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.errors import RegistryUnavailable
from adapters.leases import Holding
from serve.engines.engine import Engine

log = logging.getLogger(__name__)


class EngineLease:
    """Keeps a lease in step with an engine. Lives on the event loop; writes on threads."""

    def __init__(self, holding: Holding, engine: Engine) -> None:
        self._holding = holding
        self._engine = engine
        self._coming: Counter[str] = Counter()
        self._writing = asyncio.Lock()
        self._troubled = False

    @asynccontextmanager
    async def coming(self, engine_name: str) -> AsyncIterator[None]:
        """Hold a version that is about to be loaded, from now until the block ends."""
        self._coming[engine_name] += 1
        try:
            if engine_name not in self._engine.loaded():  # else it is said already
                await self.renew()
            yield
        finally:
            self._coming[engine_name] -= 1
            self._coming += Counter()  # forgets what is at none

    async def renew(self) -> None:
        """Say again what is held: what the engine has loaded, and what comes."""
        async with self._writing:  # one after another, so that the last word is the newest
            names = self._engine.loaded() | self._coming.keys()
            try:
                await asyncio.to_thread(self._holding.renew, names)
            except RegistryUnavailable as error:
                if not self._troubled:  # once, not every second
                    log.warning("%s", error)
                self._troubled = True
            else:
                self._troubled = False
