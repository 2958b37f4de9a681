"""What a process becomes that loads vLLM's worker extension."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_on_a_cpu_it_computes_lora_by_our_operations() -> None:
    from vllm.lora import punica_wrapper
    from vllm.lora.model_manager import LoRAModelManager

    import serve.engines.vllm_worker  # noqa: F401  # what a worker loads
    from serve.engines.cpu_lora import GroupedPunica

    made = punica_wrapper.get_punica_wrapper(8, max_batches=8, device="cpu")
    assert type(made) is GroupedPunica
    assert LoRAModelManager.activate_adapter.__module__ == "serve.engines.cpu_lora"
