"""The memory there is, and what this process has of it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from adapters.memory import free_bytes

_CUDA_BYTES = 500 << 20
"""CUDA's context and cuBLAS' workspaces."""


def available_bytes(processes: int = 1) -> int:
    """Return the memory that each of so many processes of a run may take.

    Of its GPU; else its share of what the container or the machine has free. What this process
    holds counts as free, as `process_bytes` is part of what a run takes.
    """
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved())
    return (free_bytes() + process_bytes()) // processes


def process_bytes() -> int:
    """Return what this process holds now; on a GPU, what a process takes there at least."""
    if torch.cuda.is_available():
        return _CUDA_BYTES
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the most that this process has held at once: of the GPU by tensors, else at all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
