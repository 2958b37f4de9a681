"""An alias that requests come through moves once what it moved to is loaded: nobody waits for it.

Until then it leads here where it led before, and so it stays where the new version is refused.
The same holds for `latest` where it is what the plain name means. A name whose version is not
loaded here moves at once: nobody asks for it, and loading everything that is published would
evict what somebody asks for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

from adapters.errors import AdaptersError
from adapters.types import PRODUCTION, Version
from serve.loading.residency import Residency
from serve.routes.routing import Base, check_served, weights_of
from serve.routes.snapshot import EMPTY, Adapter, Snapshot

_LOOK_S = 0.1
_PATIENCE_S = 60.0
"""How long a name waits for a load that does not end, behind many others say."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Move:
    """An alias on its way to a version."""

    version: Version
    since: float
    said: bool = False


class Handover:
    """Keeps `current`, which requests are routed by. Lives on the event loop."""

    def __init__(self, registry: Callable[[], Snapshot], residency: Residency, base: Base) -> None:
        """`registry`: the newest snapshot; the same object while it says the same."""
        self._registry = registry
        self._residency = residency
        self._base = base
        self._moves: dict[tuple[str, str], _Move] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._read: Snapshot = EMPTY
        self.current: Snapshot = EMPTY
        """Replaced as a whole, never changed; read it once a request."""

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        while True:
            try:
                self.look()
            except Exception:  # else the server would follow nothing any more, in silence
                log.exception("Following an alias failed; serving what was read before")
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Take over what the registry says now, and begin the loads that this needs."""
        read = self._registry()
        if read is self._read and not self._moves:
            return
        self._read = read
        moves: dict[tuple[str, str], _Move] = {}
        adapters = dict(read.adapters)
        for name, after in read.adapters.items():
            before = self.current.adapters.get(name)
            kept = self._kept(name, before, after, moves) if before else {}
            if kept:
                adapters[name] = replace(after, kept=MappingProxyType(kept))
            target = after.aliases.get(PRODUCTION)
            if before and target != before.aliases.get(PRODUCTION) and self._residency.room > 0:
                self._warm(after, target)
        self._moves = moves
        self.current = replace(read, adapters=MappingProxyType(adapters))

    def _kept(
        self, name: str, before: Adapter, after: Adapter, moves: dict[tuple[str, str], _Move]
    ) -> dict[str, int]:
        """Return the aliases that do not move yet with where they stay; notes them in `moves`."""
        kept = {}
        for alias in dict.fromkeys([*after.aliases, after.plain]):
            # What the plain name leads to may change by an alias that comes or goes, too.
            through = before.plain if alias == after.plain else alias
            origin, target = before.leads_to(through), after.moved_to(alias)
            if not origin or not target or origin == target or target not in after.versions:
                continue
            version = after.versions[target]
            move = self._moves.get((name, alias))
            if move is None or move.version.engine_name != version.engine_name:
                move = _Move(version, time.monotonic())
            if self._serves(after, origin) and (move := self._go_on(alias, origin, move)):
                moves[name, alias] = move
                kept[alias] = origin
        return kept

    def _serves(self, adapter: Adapter, number: int) -> bool:
        version = adapter.versions.get(number)
        if version is None or number in adapter.standings:
            return False
        with suppress(AdaptersError):
            return self._is_loaded(version)
        return False

    def _is_loaded(self, version: Version) -> bool:
        weights = weights_of(self._read, version)
        return weights is None or self._residency.is_loaded(weights)

    def _go_on(self, alias: str, origin: int, move: _Move) -> _Move | None:
        """Return a move that is not over yet; begin its load where there is none."""
        version, refusal = move.version, self._refusal(move.version)
        if refusal:
            if not move.said:
                log.error(
                    "%s@%s stays at v%d, %s is not served: %s",
                    *(version.name, alias, origin, version.ref, refusal),
                )
            self._start(version)  # at most every few seconds it is looked at again
            return replace(move, said=True)
        if self._is_loaded(version):
            return None
        if time.monotonic() - move.since > _PATIENCE_S:
            log.warning("%s@%s moves before %s is loaded", version.name, alias, version.ref)
            return None
        self._start(version)
        return move

    def _refusal(self, version: Version) -> AdaptersError | None:
        try:
            check_served(version, self._base)
            weights = weights_of(self._read, version)
        except AdaptersError as error:
            return error
        standing = self._residency.standings.get(weights.engine_name) if weights else None
        return standing.refusal if standing else None

    def _warm(self, adapter: Adapter, number: int | None) -> None:
        version = adapter.versions.get(number or 0)
        if version and number not in adapter.standings and not self._refusal(version):
            self._start(version)

    def _start(self, version: Version) -> None:
        """Load what a version needs in the background; how that ends stands in its residency."""
        with suppress(AdaptersError):
            check_served(version, self._base)
            weights = weights_of(self._read, version)
            if weights and not self._residency.is_busy(weights.engine_name):
                task = asyncio.create_task(self._load(weights))
                self._loads.add(task)
                task.add_done_callback(self._loads.discard)

    async def _load(self, version: Version) -> None:
        with suppress(AdaptersError):
            await self._residency.ready(version, waited_for=False)
