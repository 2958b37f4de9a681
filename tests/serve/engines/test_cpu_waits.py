"""What waiting for a message of vLLM's other process costs."""

from __future__ import annotations

import time

import pytest
from vllm.distributed.device_communicators import shm_broadcast

from serve.engines import cpu_waits


def test_who_waits_for_a_message_leaves_the_core_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_broadcast, "sched_yield", shm_broadcast.sched_yield)
    cpu_waits.install()
    writer = shm_broadcast.MessageQueue(n_reader=1, n_local_reader=1)
    reader = shm_broadcast.MessageQueue.create_from_handle(writer.export_handle(), 0)
    writer.enqueue("a step")
    assert reader.dequeue() == "a step"

    began, used = time.monotonic(), time.thread_time()
    with pytest.raises(TimeoutError):
        reader.dequeue(timeout=0.5)
    waited, used = time.monotonic() - began, time.thread_time() - used
    assert waited >= 0.4
    assert used < waited / 2

    writer.enqueue("the next")
    assert reader.dequeue() == "the next"
