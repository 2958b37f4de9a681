"""What a run saw, and what of it must not be."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

_MOST_KEPT = 200


class Findings:
    """Counts, and the violations with their circumstances. Thread-safe."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.lags_s: list[float] = []
        """For how long an answer was later than the move of the alias that it came by."""
        self.waits_s: list[float] = []
        """From each question to its whole answer."""
        self.ended = False
        """Whether the server is gone, and the run over."""
        self._lock = threading.Lock()

    def goes_on(self, until: float) -> bool:
        """Whether everybody is still at it."""
        return time.monotonic() < until and not self.ended

    def count(self, what: str) -> None:
        """Something that may be happened once more."""
        with self._lock:
            self.counts[what] += 1

    def violation(self, kind: str, circumstances: str) -> None:
        """Something that must not be happened; said at once, on stderr."""
        with self._lock:
            self.counts[f"violation: {kind}"] += 1
            line = f"{time.monotonic() - self.began:.1f} s: {kind}: {circumstances}"
            if len(self.violations) < _MOST_KEPT:
                self.violations.append(line)
        print(line, file=sys.stderr, flush=True)
