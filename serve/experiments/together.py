"""Outcomes of many requests in one transaction: what comes while one is written goes into the next.

So each waits for the disk once, and a hundred wait no longer than one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from adapters.errors import Conflict, Unavailable
from serve.experiments.store.base import MOST_OUTCOMES, Outcome, Receipt, Store

Told = list[Receipt | Conflict]
_Waiting = tuple[Sequence[Outcome], "asyncio.Future[Told]"]


class Together:
    """Writes to a store from an event loop, on a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outcomes")
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def record(self, outcomes: Sequence[Outcome]) -> Told:
        """As `Store.record`, of at most `MOST_OUTCOMES`.

        Raises:
            Unavailable: as there.
        """
        if not outcomes:
            return []
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcomes, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await future

    def close(self) -> None:
        """Write what has begun, and nothing else."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _write_all(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft()]
            number = len(taken[0][0])
            while self._waiting and number + len(self._waiting[0][0]) <= MOST_OUTCOMES:
                taken.append(self._waiting.popleft())
                number += len(taken[-1][0])
            await self._write(taken)

    async def _write(self, taken: Sequence[_Waiting]) -> None:
        """Write some together; where one spoils it, each for itself."""
        outcomes = [outcome for some, _ in taken for outcome in some]
        loop = asyncio.get_running_loop()
        try:
            told = iter(await loop.run_in_executor(self._thread, self._store.record, outcomes))
        except Exception as error:
            if len(taken) > 1 and not isinstance(error, Unavailable):
                for each in taken:
                    await self._write([each])
                return
            for _, future in taken:
                if not future.done():
                    future.set_exception(error)
            return
        for some, future in taken:
            kept = [next(told) for _ in some]
            if not future.done():  # else nobody waits for it any more
                future.set_result(kept)
