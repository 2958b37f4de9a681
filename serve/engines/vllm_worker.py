"""What vLLM's workers do for `serve.engines.vllm_engine`.

vLLM's workers are processes of their own. They load this class by its qualified name, through
vLLM's flag `--worker-extension-cls`, and every method here is called by `collective_rpc`, inside
the engine's loop: no step runs until it returns. So what takes time, reading a checkpoint into
tensors, happens on a thread beside the steps, and what the loop does is put the result in place.

vLLM's own `pin_lora` is not used: it also pins a slot, of which the scheduler knows nothing, and
a batch with as many adapters as there are slots then ends the engine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from serve.engines import worker_reading
from serve.engines.worker_evictions import Evictions

# A step gives the interpreter's lock away at each of its operations, and gets it back only once the
# parser has had it for this long: by default 5 ms, which makes a step of 2 ms one of 50.
sys.setswitchinterval(1e-4)

worker_reading.install()
if current_platform.is_cpu():
    from serve.engines import cpu_lora

    cpu_lora.install()


def _leave_the_core() -> None:
    """Let the thread run wherever the machine has room: vLLM binds the step's to one core."""
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


_PARSER = ThreadPoolExecutor(1, "adapters", initializer=_leave_the_core)
_parsed: dict[int, Future[Any]] = {}
"""Adapters on their way into memory, by the id vLLM knows them by; a worker is one process."""


class AdapterMemory:
    """The adapters a worker holds: in its memory, and of those in a slot."""

    model_runner: Any

    @cached_property
    def _evictions(self) -> Evictions:
        return Evictions(self.model_runner.lora_manager)

    def stage_adapter(self, name: str, number: int, path: str) -> bool:
        """Begin to parse an adapter, if it is not in memory; return whether it is."""
        if number in self._adapters().list_adapters():
            return True
        assert self._evictions  # from before the first adapter
        if number not in _parsed:
            _parsed[number] = _PARSER.submit(self._parse, LoRARequest(name, number, path))
        return False

    def adopt_adapter(
        self, name: str, number: int, path: str, activate: bool, used: Collection[int] = ()
    ) -> float | None:
        """Put a parsed adapter into memory and, where `activate`, into a slot.

        `used`: the ids that requests are for, so that what is evicted of them is not forgotten.
        Returns for how many seconds no step could run; None, at once, while it is being parsed.
        One that was not staged is read now.

        Raises:
            Exception: as vLLM's `add_lora`; nothing is left of it.
        """
        began = time.perf_counter()
        lora = self.model_runner.lora_manager
        memory = lora._adapter_manager
        if number in _parsed and not _parsed[number].done():
            return None
        parsed = _parsed.pop(number, None)
        self._evictions.forget(used)
        try:
            if parsed and number not in memory.list_adapters():
                adapter = parsed.result()
                if len(memory) >= memory.capacity:
                    memory.remove_oldest_adapter()
                memory.add_adapter(adapter)
            if activate or parsed is None:
                lora.add_adapter(LoRARequest(name, number, path))
        except Exception:
            memory.remove_adapter(number)
            raise
        return time.perf_counter() - began

    def held_adapters(self, used: Collection[int] = ()) -> dict[str, list[int]]:
        """Return the ids in memory, least recently used first, and those in a slot.

        `used`: as in `adopt_adapter`.
        """
        self._evictions.forget(used)
        memory = self._adapters()
        return {"memory": list(memory.list_adapters()), "slots": list(memory._active_adapters)}

    def pin_adapter(self, number: int, pinned: bool) -> bool:
        """Keep an adapter in memory, or no more; return whether it is there."""
        cache = self._adapters()._registered_adapters
        if number in cache and pinned:
            cache.pin(number)
        elif number in cache.pinned_items:
            cache._unpin(number)
        return number in cache

    def _adapters(self) -> Any:
        return self.model_runner.lora_manager._adapter_manager

    def _parse(self, request: LoRARequest) -> Any:
        """Read and pack an adapter as vLLM does, beside the steps; touches nothing they use."""
        lora = self.model_runner.lora_manager
        adapter = self._evictions.load(request)
        # Packing again, which adding it does, finds nothing left to pack.
        lora._adapter_manager._create_merged_loras_inplace(adapter)
        return adapter
