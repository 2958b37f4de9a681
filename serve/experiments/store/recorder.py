"""Takes exposures from the request path and writes them in batches, on a thread of its own.

A request hands its exposure over and is done: it waits for no database and fails because of none.
What waits is bounded; what finds no place is dropped, and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from adapters.errors import AdaptersError, Unavailable
from serve.experiments.store.base import Exposure, Store

_LONGEST_PAUSE_S = 5.0
_LAST_PAUSE_S = 0.05

log = logging.getLogger(__name__)


class Recorder:
    """A bounded queue before a store. As a context it writes; on leaving it writes what is left."""

    def __init__(
        self,
        store: Store,
        *,
        capacity: int = 20_000,
        batch: int = 500,
        interval_s: float = 0.2,
        close_timeout_s: float = 5.0,
    ) -> None:
        """`capacity`: how many may wait, some 10 MB of them. `interval_s`: how old one gets, and
        so how many are lost with the process: exposures are written, not acknowledged."""
        self._store = store
        self._capacity, self._batch = capacity, batch
        self._interval_s, self._close_timeout_s = interval_s, close_timeout_s
        self._waiting: deque[Exposure] = deque()
        self._lock = threading.Lock()  # held for moments; never while the database is asked
        self._settled = threading.Condition(self._lock)
        self._wake = threading.Event()
        self._deadline_s: float | None = None
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="exposures", daemon=True)
        self.written = 0
        """How many are in the store."""
        self.dropped = 0
        """How many never will be: no place, refused by the store, or left at the end."""
        self._taken = 0
        self._over = False

    @property
    def waiting(self) -> int:
        """How many are on their way."""
        with self._lock:
            return self._taken - self.written - self.dropped

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left, for `close_timeout_s` at most; the rest is dropped, and said so."""
        self._deadline_s = time.monotonic() + self._close_timeout_s
        self._wake.set()
        self._thread.join(self._close_timeout_s + 0.5)
        with self._lock:
            left = self._taken - self.written - self.dropped
            self._waiting.clear()
            self.dropped += left
            self._over = True
        if left:
            log.warning("%d exposures could not be written before the end. %s", left, self._trouble)

    def record(self, exposure: Exposure) -> bool:
        """Take an exposure, or count it as dropped; returns at once, and raises nothing."""
        with self._lock:
            self._taken += 1
            waiting = self._taken - self.written - self.dropped
            if waiting > self._capacity or self._deadline_s is not None:
                self.dropped += 1
                return False
            self._waiting.append(exposure)
        if waiting % self._batch == 0:
            self._wake.set()
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that were taken before are settled; say whether they are."""
        with self._settled:
            taken = self._taken
            self._wake.set()
            return self._settled.wait_for(
                lambda: self.written + self.dropped >= taken, timeout=timeout_s
            )

    def _run(self) -> None:
        pause_s = self._interval_s
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            try:
                settled = self._write_all()
            except Exception:  # a thread that dies here would write nothing ever after
                log.exception("Writing exposures failed")
                settled = False
            if self._deadline_s is not None:
                pause_s = _LAST_PAUSE_S
                if settled or time.monotonic() >= self._deadline_s:
                    return
            else:
                pause_s = self._interval_s if settled else min(2 * pause_s, _LONGEST_PAUSE_S)

    def _write_all(self) -> bool:
        """Write batch after batch; say whether none is left. A batch that fails stays in front."""
        while True:
            with self._lock:
                batch = [
                    self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))
                ]
            if not batch:
                return True
            try:
                refused = self._write(batch)
            except Unavailable as error:
                if str(error) != self._trouble:  # once, not five times a second
                    log.error("Exposures wait: %s", error)
                self._trouble = str(error)
                with self._lock:
                    self._waiting.extendleft(reversed(batch))
                return False
            self._trouble = ""
            with self._settled:
                if self._over:
                    return True  # too late: they are counted as dropped
                self.written += len(batch) - refused
                self.dropped += refused
                self._settled.notify_all()

    def _write(self, batch: Sequence[Exposure]) -> int:
        """Write a batch; where one spoils it, the others. Returns how many the store refuses.

        Raises:
            Unavailable: the database is gone, for now.
        """
        try:
            self._store.expose(batch)
        except Unavailable:
            raise
        except Exception as error:
            if len(batch) == 1:
                said = str(error) if isinstance(error, AdaptersError) else type(error).__name__
                log.error("The store refuses the exposure of %s: %s", batch[0].request_id, said)
                return 1
            return sum(self._write([exposure]) for exposure in batch)
        return 0
