"""Copies of the Hub's versions on this machine: how much they take, and which may go.

Each can be fetched again. So what goes is no loss, but a running server's engine reads its own
again and again: those stay, and each adapter's last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.backends.hub_cache import Cache
from adapters.backends.hub_calls import Calls
from adapters.errors import UsageError
from adapters.home import hub_cache
from adapters.leases import leases
from adapters.retention import Usage


@dataclass(frozen=True, slots=True)
class Copy:
    """One version that was fetched, or published from here."""

    adapter: str
    """E.g. `hf://your-org/support`."""
    number: int
    """0: its manifest is damaged."""
    path: Path
    held: bool
    """Whether a server that runs on this machine has it loaded."""

    @property
    def usage(self) -> Usage:
        size_bytes = sum(file.stat().st_size for file in self.path.iterdir())
        return Usage(f"{self.adapter}@v{self.number}", size_bytes)


class Copies:
    """What is kept below `adapters.home.hub_cache`."""

    def usage(self) -> list[Usage]:
        """Return the size of every copy, by adapter and number."""
        return [copy.usage for _, copies in self._every() for copy in copies]

    def plan(self, *, keep_last: int) -> list[Usage]:
        """Return what `collect` would remove now. Raises as `collect`."""
        return [copy.usage for _, copy in self._garbage(keep_last)]

    def collect(self, *, keep_last: int) -> list[Usage]:
        """Remove all copies but those that are held and the last of each adapter; return them.

        Raises:
            UsageError: `keep_last` below 0.
            RegistryUnavailable: a copy cannot be removed, or a lease cannot be read: then nobody
                knows what is held.
        """
        gone = []
        for cache, copy in self._garbage(keep_last):
            gone.append(copy.usage)
            cache.remove(copy.path)
        return gone

    def _garbage(self, keep_last: int) -> list[tuple[Cache, Copy]]:
        if keep_last < 0:
            raise UsageError(f"Cannot keep the last {keep_last}.", fix="Use --keep-last 0 or more.")
        return [
            (cache, copy)
            for cache, copies in self._every()
            for copy in copies[: max(0, len(copies) - keep_last)]
            if not copy.held
        ]

    def _every(self) -> Iterator[tuple[Cache, list[Copy]]]:
        """Yield the copies of each adapter, by number, and the cache that they are in."""
        for place in sorted(hub_cache().glob("[!.]*/")):
            location, cache = f"hf://{place.name}", Cache(Calls(place.name))
            held = {version for lease in leases(location) for version in lease.versions}
            for name in sorted(path.name for path in place.glob("[!.]*/")):
                numbered = sorted(cache.copies(name))
                yield (
                    cache,
                    [
                        Copy(f"{location}/{name}", number, path, (name, number) in held)
                        for number, path in numbered
                    ],
                )
