"""On a CPU, tokens of the base get nothing of the adapters beside them, though slots are full."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_tokens_without_a_slot_are_left_as_they_are() -> None:
    from vllm.lora.punica_wrapper import punica_cpu

    import serve.vllm_worker  # noqa: F401  # what a worker loads

    torch.manual_seed(0)
    slots = torch.tensor([-1, 0, 1, -1])
    inputs, a, b = torch.randn(4, 3), torch.randn(2, 1, 5, 3), torch.randn(2, 1, 6, 5)
    expected = torch.zeros(4, 6)
    for token, slot in ((1, 0), (2, 1)):
        expected[token] = b[slot, 0] @ (a[slot, 0] @ inputs[token])
    between, output = torch.zeros(4, 5), torch.zeros(4, 6)
    punica_cpu.bgmv_shrink(inputs, a, between, slots, 1.0)
    punica_cpu.bgmv_expand(between, b, output, slots, True)
    torch.testing.assert_close(output, expected)
    sequences = (None, torch.ones(4, dtype=torch.long), slots, 4, 1, 4)
    between, output = torch.zeros(4, 5), torch.zeros(4, 8)
    punica_cpu.sgmv_shrink(inputs, a, between, *sequences, 1.0)
    punica_cpu.sgmv_expand_slice(between, b, output, *sequences, 2, 6, True)
    torch.testing.assert_close(output[:, 2:], expected)
    assert not output[:, :2].any()
