"""The end of a server: running requests may finish, new ones are turned away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from serve.http.failures import RequestRefused


class Drain:
    """Counts requests from now on, and lets none in once it has begun. Lives on the event loop.

    The port stays open meanwhile, so that readiness and metrics can be asked for until the end.
    """

    def __init__(self) -> None:
        self.begun = False
        self._running = 0
        self._over = asyncio.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a request while the block runs.

        Raises:
            RequestRefused: 503; the server is about to end.
        """
        if self.begun:
            raise RequestRefused(503, "This server is shutting down.", fix="Ask again in a moment.")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._settle()

    def begin(self) -> None:
        """Let no new request in. Again: wait for the running ones no more."""
        if self.begun:
            self._over.set()
        self.begun = True
        self._settle()

    def _settle(self) -> None:
        if self.begun and not self._running:
            self._over.set()

    async def over(self, timeout_s: float) -> None:
        """Return once no request runs, at the latest after so long. Begin first."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), timeout_s)
