"""What goes wrong between a client and the Hub double: said beforehand, or drawn by chance."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal["status", "lost request", "lost reply", "slow", "stalled"]


@dataclass
class Fault:
    """One accident, for the next `times` requests that match.

    status: answered with `status`, and nothing was done. lost request: the connection ends, and
    nothing was done. lost reply: it was done, then the connection ends. slow: the answer's body
    comes in pieces, `pause_s` apart. stalled: nothing happens for `pause_s`, then a lost request.
    """

    kind: Kind
    method: str = "POST"
    path: str = "/commit/"
    """A regular expression that the request's path contains."""
    times: int = 1
    status: int = 500
    retry_after_s: float | None = None
    reset_s: int | None = None
    """What the RateLimit header says: when calls are allowed again."""
    pause_s: float = 0.05


class Faults:
    """The accidents still to come. Safe among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self._chance: random.Random | None = None
        self._rate = 0.0
        self.happened = 0

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._waiting.extend(faults)

    def draw_by_chance(self, rate: float, seed: int) -> None:
        """From now on let this share of the commits and tags suffer something, seeded."""
        with self._lock:
            self._chance, self._rate = random.Random(seed), rate

    def next_for(self, method: str, path: str) -> Fault | None:
        """Return what happens to a request, and count it."""
        with self._lock:
            fault = self._said(method, path) or self._drawn(method, path)
            self.happened += fault is not None
            return fault

    def _said(self, method: str, path: str) -> Fault | None:
        for fault in self._waiting:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def _drawn(self, method: str, path: str) -> Fault | None:
        changes = method == "POST" and re.search("/(commit|tag|branch)/", path)
        if not changes or self._chance is None or self._chance.random() >= self._rate:
            return None
        drawn = self._chance.choice(
            ["lost request", "lost reply", "lost reply", 409, 412, 429, 500]
        )
        if isinstance(drawn, int):
            return Fault("status", status=drawn, retry_after_s=0.01 if drawn == 429 else None)
        return Fault(drawn)  # type: ignore[arg-type]
