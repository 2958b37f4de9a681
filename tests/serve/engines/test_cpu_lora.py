"""On a CPU, LoRA is computed as vLLM does, but for tokens of the base, which get nothing of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from serve.engines.cpu_lora import GroupedPunica

SLOTS, MOST_TOKENS = 5, 12
FULL, HALF = torch.float32, torch.bfloat16
TYPES = ((FULL, FULL), (HALF, HALF), (HALF, FULL))
"""Of what goes in, and of what comes out."""


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    """A step: each token's slot or none, a layer's weights of lower ranks than there is room."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    return {
        "tokens": draw(st.lists(st.integers(-1, SLOTS - 1), max_size=MOST_TOKENS)),
        "ranks": draw(st.lists(st.integers(0, 4), min_size=SLOTS, max_size=SLOTS)),
        "inputs": draw(st.integers(1, 8)),
        "sizes": sizes,
        "scale": draw(st.sampled_from([1.0, 0.5])),
        "types": draw(st.sampled_from(TYPES)),
        "seed": draw(st.integers(0, 99)),
    }


def wrapper(kind: type[PunicaWrapperCPU], tokens: list[int]) -> Any:
    made = kind(MOST_TOKENS, MOST_TOKENS, "cpu")
    numbers = tuple(slot + 1 for slot in tokens)  # 0: the base
    mapping = SimpleNamespace(index_mapping=numbers, prompt_mapping=numbers, is_prefill=True)
    made.update_metadata(mapping, list(range(1, SLOTS + 1)), SLOTS, 7)
    return made


def weights(step: dict[str, Any]) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    torch.manual_seed(step["seed"])
    room, kind = 4, step["types"][0]
    a = [torch.randn(SLOTS, 1, room, step["inputs"]) for _ in step["sizes"]]
    b = [torch.randn(SLOTS, 1, size, room) for size in step["sizes"]]
    for one, other in zip(a, b, strict=True):
        for slot, rank in enumerate(step["ranks"]):
            one[slot, 0, rank:], other[slot, 0, :, rank:] = 0, 0
    return tuple(one.to(kind) for one in a), tuple(one.to(kind) for one in b)


def agree(step: dict[str, Any], ours: torch.Tensor, theirs: torch.Tensor, y: torch.Tensor) -> None:
    adapted = torch.tensor(step["tokens"]) >= 0
    coarse = {"rtol": 3e-2, "atol": 2e-1} if torch.bfloat16 in step["types"] else {}
    torch.testing.assert_close(ours[adapted], theirs[adapted], **coarse)
    assert torch.equal(ours[~adapted], y[~adapted])


@given(steps())
@settings(deadline=None)
def test_each_operation_gives_what_vllms_gives(step: dict[str, Any]) -> None:
    a, b = weights(step)
    tokens, total = step["tokens"], sum(step["sizes"])
    if not tokens:
        return
    x = torch.randn(len(tokens), step["inputs"]).to(step["types"][0])
    y = torch.randn(len(tokens), total).to(step["types"][1])
    wide = torch.randn(len(tokens), step["sizes"][0] + 2).to(step["types"][1])
    looked_up = torch.randn(len(tokens), 4).to(step["types"][0])

    def run(kind: type[PunicaWrapperCPU]) -> list[torch.Tensor]:
        punica, found = wrapper(kind, tokens), [y.clone(), wide.clone(), wide.clone(), y.clone()]
        sliced = tuple(step["sizes"])
        punica.add_lora_linear(found[0], x, a, b, step["scale"], sliced)
        punica.add_lora_logits(found[1], x, a[0], b[0], step["scale"])
        punica.add_lora_embedding(found[2], looked_up, b[0])
        between = torch.zeros(len(a), len(tokens), 4)
        punica.add_shrink(between, x, a, step["scale"])
        punica.add_expand(found[3], between, b, sliced)
        return found

    for ours, theirs, before in zip(
        run(GroupedPunica), run(PunicaWrapperCPU), (y, wide, wide, y), strict=True
    ):
        agree(step, ours, theirs, before)


def test_a_step_without_tokens_changes_nothing() -> None:
    punica, y = GroupedPunica(MOST_TOKENS, MOST_TOKENS, "cpu"), torch.zeros(0, 3)
    a, b = (torch.ones(SLOTS, 1, 2, 4),), (torch.ones(SLOTS, 1, 3, 2),)
    punica.add_lora_linear(y, torch.zeros(0, 4), a, b, 1.0, (3,))
    assert y.shape == (0, 3)


def test_a_slot_that_was_refilled_is_looked_at_again() -> None:
    """Whether it has anything for a layer is found by looking at the weights, and kept.

    As in the engine: a step is under inference mode, and a slot is filled outside of it.
    """
    punica, x = wrapper(GroupedPunica, [0]), torch.ones(1, 4)
    a, b = torch.zeros(SLOTS, 1, 2, 4), torch.ones(SLOTS, 1, 3, 2)

    def added() -> float:
        y = torch.zeros(1, 3)
        with torch.inference_mode():
            punica.add_lora_linear(y, x, (a,), (b,), 1.0, (3,))
        return float(y[0, 0])

    assert added() == 0
    a[0] = 1
    punica.refilled(0, 2)
    assert added() == 8
    a[0, 0, 1] = 9  # beyond the rank of what is there now
    punica.refilled(0, 1)
    assert added() == 4
    b[0] = 3
    punica.refilled(0, 1)
    assert added() == 12


def test_rows_that_are_not_the_steps_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows for 2 tokens"):
        wrapper(GroupedPunica, [0, 1])._tokens.parts(torch.ones(3, 4))
