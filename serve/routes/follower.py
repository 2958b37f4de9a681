"""Follows the registry on a thread of its own, so that requests never wait for a disk."""

from __future__ import annotations

import logging
import threading
import time

from adapters.registry import Registry
from serve.routes.snapshot import EMPTY, Snapshot, take

_INTERVAL_S = 0.25
_SHARE = 4  # a large registry may take at most this fraction of a thread

log = logging.getLogger(__name__)


class Follower:
    """Keeps `current` no older than a moment. Start and stop it as a context."""

    def __init__(self, registry: Registry, *, interval_s: float = _INTERVAL_S) -> None:
        self._registry = registry
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="registry", daemon=True)
        self.current: Snapshot = EMPTY
        """Replaced as a whole, never changed; read it once a request."""
        self._read_at = time.monotonic()

    @property
    def age_s(self) -> float:
        """How long ago the registry was last read successfully."""
        return time.monotonic() - self._read_at

    def __enter__(self) -> Follower:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _follow(self) -> None:
        took_s = 0.0
        while not self._stopped.wait(max(self._interval_s, took_s * _SHARE)):
            began = time.monotonic()
            self._look()
            took_s = time.monotonic() - began

    def _look(self) -> None:
        before = self.current
        try:
            after = take(self._registry, before)
        except Exception:  # a thread that dies here would leave the server blind for ever
            log.exception("Reading the registry failed; serving what was read before")
            return
        self.current = after
        if after.reachable:
            self._read_at = time.monotonic()
        for trouble in after.troubles:
            if trouble not in before.troubles:  # once, not four times a second
                log.warning("%s Serving what was read before.", trouble)
        if before.troubles and not after.troubles:
            log.warning("The registry can be read again.")
