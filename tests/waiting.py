"""Wait until what was told shows, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
HANGS_S = 60
"""Nothing takes so long: bounds only end a hang, as speed is for benchmarks."""


def wait(
    until: Callable[[], T | None],
    *,
    timeout_s: float = HANGS_S,
    otherwise: Callable[[], object] = lambda: "waited for in vain",
) -> T:
    """Ask again and again; return the first answer that is true.

    Raises:
        AssertionError: none was in time; `otherwise` says what to show of it.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := until()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.05)
    return answer
