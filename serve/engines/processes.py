"""Leaves nothing running: what an engine's process leaves behind when it dies comes to us.

Linux. Knows processes by the name they gave themselves, and ends only descendants of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def adopt_orphans() -> None:
    """From now on, a descendant whose parent dies becomes our child, not init's."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(prefix: str, *, patience_s: float) -> list[int]:
    """Wait for our children named `prefix…` to end; kill those that do not. Blocks.

    Returns the process ids that had to be killed.
    """
    deadline = time.monotonic() + patience_s
    while (left := _children(prefix)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return left


def _children(prefix: str) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):  # it ended while we looked
            head, _, tail = stat.read_text().rpartition(")")
            process, _, name = head.partition(" (")
            state, parent = tail.split()[:2]
            if int(parent) == os.getpid() and state != "Z" and name.startswith(prefix):
                found.append(int(process))
    return found
