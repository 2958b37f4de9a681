"""A server started again is warm again: what it loads before anybody asks, and where that stands.

    <root>/served/<port>.json    {loaded, pinned, together}: engine names, the last used first

Production aliases come first, then what was loaded at the end, as far as memory has places. The
file is a note to the next server on this port, and no more: one that is lost, damaged or cannot
be written costs a few cold loads.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from adapters.errors import AdaptersError
from adapters.files import make_folder, open_plain, read_up_to
from adapters.leases import folder_of
from adapters.types import PRODUCTION, Version
from serve.loading.residency import Residency
from serve.routes.routing import Base, check_served, weights_of
from serve.routes.snapshot import Snapshot

_MOST_BYTES = 4 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What a server held, by engine name."""

    loaded: tuple[str, ...] = ()
    """Most recently used first."""
    pinned: tuple[str, ...] = ()
    together: int = 0
    """How many were in use at once, at most."""


class Note:
    """The file that one server leaves to the next. Blocks on the disk."""

    def __init__(self, location: str, port: int) -> None:
        leases = folder_of(location)
        self._path = leases.with_name(leases.name.replace("leases", "served")) / f"{port}.json"
        self._written: Served | None = None

    def read(self) -> Served:
        """Return what the last server on this port held; nothing where nobody can tell."""
        try:
            with open_plain(self._path) as stream:
                fields = json.loads(read_up_to(stream, _MOST_BYTES))
            loaded, pinned = _names(fields["loaded"]), _names(fields["pinned"])
            found = Served(loaded, pinned, int(fields.get("together", 0)))
        except FileNotFoundError:
            return Served()
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            log.warning("What was served before cannot be read from %s: %s", self._path, error)
            return Served()
        return found

    def write(self, served: Served) -> None:
        """Replace the file, if what is held has changed; the order alone is no change."""
        before = self._written
        if before and _sorted(before) == _sorted(served):
            return
        if before is None and served == Served():
            return  # nothing yet: the note before still says more
        first, self._written = before is None, served
        written = self._path.with_name(f".{self._path.name}")
        try:
            make_folder(self._path.parent)
            written.write_text(json.dumps(asdict(served)))
            written.replace(self._path)
        except OSError as error:
            if first:
                log.warning("What is served cannot be noted in %s: %s", self._path, error)


def held(residency: Residency, together: int = 0) -> Served:
    """Return what a server holds now; `together`: how many were in use at once."""
    loaded = tuple(reversed(residency.memory.loaded))
    return Served(loaded, tuple(name for name in loaded if name in residency.pinned), together)


class Warming:
    """Loads what is wanted, in the background, behind every request."""

    def __init__(self, residency: Residency, wanted: Sequence[Version], pinned: Sequence[str]):
        self._residency = residency
        self._wanted = wanted
        self._pinned = frozenset(pinned)
        self.left = len(wanted)
        """How many versions are not loaded yet; those that are refused count as done."""

    async def run(self) -> None:
        """Load all of them, begun in order."""
        await asyncio.gather(*(self._load(version) for version in self._wanted))

    async def _load(self, version: Version) -> None:
        try:
            await self._residency.ready(version, waited_for=False)
            if version.engine_name in self._pinned:
                await self._residency.pin(version)
        except AdaptersError:
            pass  # its standing says it
        finally:
            self.left -= 1


def wanted(snapshot: Snapshot, base: Base, served: Served, places: int) -> list[Version]:
    """Return the versions to load at start, at most `places`, the most wanted first."""
    known = {version.engine_name: version for version in snapshot.versions()}
    names = list(served.pinned)
    for adapter in snapshot.adapters.values():
        number = adapter.aliases.get(PRODUCTION)
        if number and number in adapter.versions:
            names.append(adapter.versions[number].engine_name)
    found: dict[str, Version] = {}
    for name in dict.fromkeys([*names, *served.loaded]):
        with suppress(AdaptersError):
            if name in known:
                check_served(known[name], base)
                if weights := weights_of(snapshot, known[name]):
                    found.setdefault(weights.engine_name, weights)
    return list(found.values())[:places]


def _sorted(served: Served) -> Served:
    return Served(tuple(sorted(served.loaded)), tuple(sorted(served.pinned)), served.together)


def _names(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise TypeError("it holds what is no name")
    return tuple(found)
