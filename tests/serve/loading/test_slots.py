"""How many LoRA slots, and how large, for which registry and base."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.lint import RANK_CLASSES
from serve.loading.slots import Overrides, Slots, size, slot_bytes
from tests.conftest import LLAMA

GIB = 1 << 30
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}


def choose(ranks: list[int], config: dict[str, Any] | None = None, **options: Any) -> Slots:
    given = {"base_bytes": 10**7, "free_bytes": 16 * GIB, "element_bytes": 4, **options}
    return size(ranks, config or LLAMA, **given)


def test_a_slot_is_a_and_b_of_every_layer_at_full_rank() -> None:
    # By hand, of the small base: q and o 32+32, k and v 32+16, gate, up and down 32+48; two
    # layers; embedding and head 32+64 each; rank 8; 4 bytes.
    layer = 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48)
    assert slot_bytes(LLAMA, 8, 4) == 8 * 4 * (2 * layer + 2 * (32 + 64))


def test_an_empty_registry_leaves_room_for_what_is_trained_later() -> None:
    slots = choose([])
    assert slots.max_loras >= 4
    assert slots.max_lora_rank == 64


def test_all_versions_have_a_slot_each_while_that_is_cheap() -> None:
    slots = choose([8] * 12)
    assert 12 < slots.max_loras <= slots.max_cpu_loras
    assert choose([8] * 64).max_loras == 64
    assert choose([8] * 500).max_cpu_loras >= 500


def test_of_many_versions_those_that_are_likely_at_once_have_one() -> None:
    most = choose([8] * 500).max_loras
    assert most < 100
    assert choose([8] * 500, named=120).max_loras == 124
    traffic = choose([8] * 500, named=120, together=200)
    assert traffic.max_loras == 204
    assert "120 of them behind a name or an alias, 200 known to have been in use" in traffic.reason
    assert choose([8] * 3, together=200).max_loras == 7, "no more than there are"
    assert choose([8] * 500, QWEN_7B, named=400).max_loras < 10, "nor than memory has room for"


@pytest.mark.parametrize(("largest", "chosen"), [(1, 64), (64, 64), (65, 128), (257, 320)])
def test_the_rank_is_vllms_next_class(largest: int, chosen: int) -> None:
    assert choose([1, largest]).max_lora_rank == chosen


def test_large_slots_are_fewer_and_of_a_plain_rank() -> None:
    slots = choose([16] * 30, QWEN_7B, base_bytes=2 * GIB, element_bytes=2)
    assert slots.max_lora_rank == 16
    assert slots.max_loras * slot_bytes(QWEN_7B, 16, 2) <= GIB
    roomy = choose([16] * 30, QWEN_7B, base_bytes=15 * GIB, element_bytes=2)
    assert roomy.max_lora_rank == 64


def test_host_memory_bounds_what_is_kept_out_of_the_slots() -> None:
    slots = choose([8] * 500, free_bytes=0)
    assert slots.max_cpu_loras == slots.max_loras


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--max-loras", "3"], Overrides(max_loras=3)),
        (["--max_loras=3", "--dtype", "float32"], Overrides(max_loras=3)),
        (["--max-cpu-loras=9", "--max-lora-rank", "8"], Overrides(None, 9, 8)),
        (["--max-loras", "many"], Overrides()),
        (["--max-lora"], Overrides()),
        ([], Overrides()),
    ],
)
def test_a_persons_flags_are_found_in_any_spelling(flags: list[str], expected: Overrides) -> None:
    assert Overrides.read(flags) == expected


def test_what_a_person_decides_stands() -> None:
    slots = choose([8] * 12, overrides=Overrides(3, 5, 256))
    assert (slots.max_loras, slots.max_cpu_loras, slots.max_lora_rank) == (3, 5, 256)
    assert choose([8] * 12, overrides=Overrides(max_cpu_loras=2)).max_loras == 2
    assert choose([], overrides=Overrides(max_loras=40)).max_cpu_loras >= 40


@given(
    st.lists(st.integers(1, 512), max_size=300),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.sampled_from([LLAMA, QWEN_7B, {}]),
)
def test_vllm_always_takes_what_is_chosen(
    ranks: list[int], base_bytes: int, free_bytes: int, config: dict[str, Any]
) -> None:
    slots = choose(ranks, config, base_bytes=base_bytes, free_bytes=free_bytes)
    assert 1 <= slots.max_loras <= slots.max_cpu_loras
    assert slots.max_lora_rank in RANK_CLASSES
    assert slots.max_lora_rank >= max(ranks, default=0)
    assert "version(s)" in slots.reason
