"""The memory there is on this machine. Linux."""

from __future__ import annotations

from pathlib import Path

_MACHINE = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """Return what the container or the machine could give without swapping.

    What the kernel keeps of files counts as free: it gives that up first.
    """
    words = dict(line.split(":") for line in _MACHINE.read_text().splitlines())
    free = int(words["MemAvailable"].split()[0]) * 1024
    limit = _CONTAINER / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        kept = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        used = int((_CONTAINER / "memory.current").read_text()) - int(kept["inactive_file"])
        free = min(free, int(text) - used)
    return free
