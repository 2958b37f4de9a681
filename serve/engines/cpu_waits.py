"""How vLLM's processes wait for one another where they share their cores with everyone else.

The engine and its worker pass each other a message a step through shared memory, and look for it
without pause, giving the core up by `sched_yield`. Where a worker computes on a GPU, that costs an
idle core. Where it computes on a CPU, the cores are what everything runs on, and Linux lets who
yields over and over keep a core from others: on two cores, the server and a client beside it got
no turn for up to 2 s (Linux 6.18).
"""

from __future__ import annotations

import time

from vllm.distributed.device_communicators import shm_broadcast

_LOOK_EVERY_S = 1e-4


def install() -> None:
    """Have this process sleep between two looks; again changes nothing."""
    shm_broadcast.sched_yield = _sleep


def _sleep() -> None:
    time.sleep(_LOOK_EVERY_S)
