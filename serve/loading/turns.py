"""A few at a time, and who is waited for goes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turns:
    """Lets so many in at once; the others wait. Lives on the event loop.

    A name that is `wanted` when a place gets free goes before those that are not; among equals
    whoever came first. So a request never waits for work that nobody waits for yet, beyond what
    has begun.
    """

    def __init__(self, places: int, wanted: Callable[[str], bool]) -> None:
        self._free = places
        self._wanted = wanted
        self._waiting: dict[asyncio.Future[None], str] = {}

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it while the block runs."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(name)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, name: str) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting[place] = name
        try:
            await place
        except asyncio.CancelledError:
            if self._waiting.pop(place, None) is None and not place.cancelled():
                self._leave()  # the place came in the same moment
            raise

    def _leave(self) -> None:
        ready = [place for place in self._waiting if not place.done()]
        if not ready:
            self._free += 1
            return
        place = next((each for each in ready if self._wanted(self._waiting[each])), ready[0])
        del self._waiting[place]
        place.set_result(None)
