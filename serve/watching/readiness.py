"""`GET /ready`: whether to send this server requests, and what each part of it says.

A registry that cannot be reached is said and is no reason to stop sending: what was read of it,
and every adapter whose files are here, goes on being served. Names no adapter: it asks for no key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from adapters.errors import Unavailable
from serve.engines.engine import Engine
from serve.http.draining import Drain

_STALE_S = 30.0
"""Reading the registry takes far less; what hangs for so long (a network disk) is not reachable."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Looks at the parts of a server each time it is asked."""

    engine: Engine
    drain: Drain
    registry_age_s: Callable[[], float] = lambda: 0.0
    """Since the registry was last read successfully."""
    registry_reachable: Callable[[], bool] = lambda: True
    """Whether it was the last time."""
    waiting: Callable[[], int] = lambda: 0
    """How many versions that are wanted at the start are not loaded yet."""

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether requests can be served, and the document that says so."""
        try:
            await self.engine.check()
            engine = "up"
        except Unavailable as error:
            engine = str(error)
        waiting = self.waiting()
        ready = engine == "up" and not waiting and not self.drain.begun
        return ready, {
            "status": "ready" if ready else "draining" if self.drain.begun else "not ready",
            "engine": engine,
            "registry": self._registry(),
            "adapters": {"loaded": len(self.engine.loaded()), "waiting": waiting},
        }

    def _registry(self) -> str:
        age_s = self.registry_age_s()
        if self.registry_reachable() and age_s < _STALE_S:
            return "reachable"
        since = datetime.now(UTC) - timedelta(seconds=age_s)
        return f"unreachable since {since:%Y-%m-%dT%H:%M:%SZ}"
