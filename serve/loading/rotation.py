"""More adapters are asked for than there are slots: they take turns.

vLLM starts whatever fits beside what runs. An adapter that is asked for all the time so keeps its
slot for ever, and the others stand in its queue until it pauses. Here requests stand before the
engine, and those of one adapter go in together.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager


class Rotation:
    """Lets requests for at most so many adapters at once into the engine. Lives on the event loop.

    An adapter holds a slot while requests for it run, and more may join them. A free slot goes to
    the adapter that has waited longest, and all that wait for it go in. For each that waits, a
    holder whose turn is over gives way: it takes no more, and its slot is free once its requests
    end. So whoever is first in line waits for a turn and the answers that run then, at most.
    """

    def __init__(
        self, slots: int, turn_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`turn_s`: for how long a holder takes more, though others wait."""
        self._slots = slots
        self._turn_s = turn_s
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._began: dict[str, float] = {}
        """When each holder got its slot."""
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        """In the order in which adapters, and the requests of each, came."""
        self._leaving: set[str] = set()

    @property
    def running(self) -> Mapping[str, int]:
        """How many requests run, by adapter; none is left out."""
        return self._running

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many requests wait, by adapter; none is left out."""
        return {name: len(places) for name, places in self._waiting.items()}

    @asynccontextmanager
    async def slot(self, name: str) -> AsyncIterator[None]:
        """Wait until an adapter has a slot, and hold it while the block runs."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, {})[place] = None
        self._settle()
        try:
            await place
            yield
        finally:
            if place.done() and not place.cancelled():
                self._running[name] -= 1
                if not self._running[name]:
                    del self._running[name], self._began[name]
            elif places := self._waiting.get(name):
                places.pop(place, None)
                if not places:
                    del self._waiting[name]
            self._settle()

    def _settle(self) -> None:
        """Let in whom there is room for, and choose who has to give way."""
        while outside := [name for name in self._waiting if name not in self._running]:
            if len(self._running) >= self._slots:
                break
            self._let_in(outside[0])
        over = self._clock() - self._turn_s
        late = [name for name, began in self._began.items() if began <= over]
        # Whoever gives way already goes on with it; else those with the fewest requests, as they
        # are through first.
        late.sort(key=lambda name: (name not in self._leaving, self._running[name]))
        self._leaving = set(late[: len(outside)])
        for name in [each for each in self._waiting if each in self._running]:
            if name not in self._leaving:
                self._let_in(name)

    def _let_in(self, name: str) -> None:
        for place in self._waiting.pop(name):
            if not place.done():  # one that is, was cancelled and has not been told yet
                self._running[name] += 1
                self._began.setdefault(name, self._clock())
                place.set_result(None)
