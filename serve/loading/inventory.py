"""`/v1/adapters`: where every version stands on this server, and how to bring it further.

GET    /v1/adapters             {"object": "list", "data": [row, …]}
GET    /v1/adapters/REF         one row
POST   /v1/adapters/REF/load    returns its row once it is in memory, or says why not
POST   /v1/adapters/REF/pin     loads it, and it is never evicted from memory
DELETE /v1/adapters/REF/pin     lets it be evicted again
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from adapters.errors import AdaptersError, NotFound
from adapters.types import LATEST, Version
from serve.http.access import ADAPTERS_PATH
from serve.http.failures import RequestRefused
from serve.loading.admission import Admission
from serve.loading.residency import State
from serve.routes.routing import Base, check_served, route, weights_of
from serve.routes.snapshot import Snapshot

_FIX = f"See GET {ADAPTERS_PATH}."


class Inventory:
    """Answers for what an engine holds of a snapshot."""

    def __init__(self, admission: Admission, base: Base) -> None:
        self._running = admission.running
        self._residency = admission.residency
        self._base = base

    async def answer(self, snapshot: Snapshot, method: str, path: str) -> dict[str, Any]:
        """Return the document for a request to `path`, which begins with `/v1/adapters`.

        Raises:
            RequestRefused: 404 or 405.
            AdaptersError: as `serve.routes.routing.route` and `Residency.ready` and `pin`.
        """
        ref, _, action = path.removeprefix(ADAPTERS_PATH).removeprefix("/").partition("/")
        allowed = {"": ("GET", "HEAD"), "load": ("POST",), "pin": ("POST", "DELETE")}
        if action not in allowed or (action and not ref):
            raise RequestRefused(404, f"Nothing is at {path[:80]!r}.", fix=_FIX)
        if method not in allowed[action]:
            raise RequestRefused(405, f"{path[:80]!r} takes no {method}.", fix=_FIX)
        if not ref:
            await self._residency.refresh()
            return {"object": "list", "data": list(self._rows(snapshot))}
        version = route(snapshot, self._base, ref, None).version
        if version is None:
            raise NotFound(f"{ref} is the base, which is always loaded.", fix=_FIX)
        weights = weights_of(snapshot, version)  # None: it needs but the base
        if weights and action == "load":
            await self._residency.ready(weights)
        elif weights and method == "POST":
            await self._residency.pin(weights)
        elif weights and method == "DELETE":
            await self._residency.unpin(weights.engine_name)
        await self._residency.refresh()
        return self._row(snapshot, version)

    def _rows(self, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
        listed = set()
        for adapter in snapshot.adapters.values():
            for version in adapter.versions.values():
                listed.add(version.engine_name)
                yield self._row(snapshot, version)
        for name, standing in self._residency.standings.items():
            if name not in listed:  # deleted, and a request still runs on it
                yield self._row(snapshot, standing.version)

    def _row(self, snapshot: Snapshot, version: Version) -> dict[str, Any]:
        name, number = version.engine_name, version.number
        adapter = snapshot.adapters.get(version.name)
        state, refusal = self._state(snapshot, version)
        standing = self._residency.standings.get(name)
        aliases = (*adapter.aliases, LATEST) if adapter and number in adapter.versions else ()
        here = [alias for alias in aliases if adapter and adapter.leads_to(alias) == number]
        moved = [alias for alias in aliases if adapter and adapter.moved_to(alias) == number]
        used_at = standing.used_at if standing else None
        return {
            "id": version.ref,
            "object": "adapter",
            "engine_name": name,
            "state": state,
            "reason": str(refusal) if refusal else None,
            "aliases": here,
            "awaited_by": [alias for alias in moved if alias not in here],
            "pinned": name in self._residency.pinned,
            "running": self._running.get(name, 0),
            "loads": standing.loads if standing else 0,
            "last_used": _time(used_at) if used_at else None,
            "rank": version.manifest.peft.get("r"),
            "size_bytes": sum(file.size_bytes for file in version.manifest.files.values()),
        }

    def _state(self, snapshot: Snapshot, version: Version) -> tuple[State, AdaptersError | None]:
        adapter = snapshot.adapters.get(version.name)
        ruling = adapter.standings.get(version.number) if adapter else None
        if adapter is None or version.number not in adapter.versions or ruling:
            refusal = ruling.refusal(version.name, version.number) if ruling else None
            held = version.engine_name in self._residency.standings
            return (State.DRAINING if held else State.REFUSED), refusal
        try:
            check_served(version, self._base)
            weights = weights_of(snapshot, version)
        except AdaptersError as error:
            return State.REFUSED, error
        if weights is None:
            return State.RESIDENT, None
        standing = self._residency.standings.get(weights.engine_name)
        return self._residency.state(weights), standing.refusal if standing else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
