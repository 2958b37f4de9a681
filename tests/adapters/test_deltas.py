"""ΔW from the factors is what the dense matrices and PEFT itself say."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import bases
from adapters.deltas import Delta, distance, norm, read_deltas


def draw(seed: int, r: int, scale: float = 2.0) -> Delta:
    chance = numpy.random.default_rng(seed)
    return Delta(chance.normal(size=(r, 12)), chance.normal(size=(9, r)), scale)


def dense(delta: Delta) -> numpy.ndarray:
    return delta.scale * delta.b @ delta.a


@given(
    left=st.builds(draw, st.integers(0, 99), st.integers(1, 20), st.floats(0.1, 9)),
    right=st.builds(draw, st.integers(0, 99), st.integers(1, 20), st.floats(0.1, 9)),
)
def test_norm_and_distance_are_those_of_the_dense_matrices(left: Delta, right: Delta) -> None:
    assert norm(left) == pytest.approx(numpy.linalg.norm(dense(left)))
    apart = numpy.linalg.norm(dense(left) - dense(right))
    assert distance(left, right) == pytest.approx(apart, abs=1e-9)


def test_nearly_equal_ones_do_not_cancel_to_noise() -> None:
    left = draw(0, 4)
    right = Delta(left.a, left.b * (1 + 1e-9), left.scale)
    assert distance(left, right) == pytest.approx(1e-9 * norm(left), rel=1e-3)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_it_is_what_peft_computes(tmp_path: Path, use_rslora: bool, dtype: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(bases.resolve("tiny").path),
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=["q_proj", "down_proj"],
            use_rslora=use_rslora,
            rank_pattern={"down_proj": 6},
            alpha_pattern={"down_proj": 5},
        ),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
            parameter.data = parameter.data.to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    deltas = read_deltas(tmp_path)
    modules = {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    assert {f"base_model.model.{module}" for module in deltas} == modules.keys()
    for module, delta in deltas.items():
        layer = modules[f"base_model.model.{module}"].to(torch.float32)
        theirs = layer.get_delta_weight("default").detach().numpy()
        numpy.testing.assert_allclose(dense(delta), theirs, rtol=1e-4, atol=1e-6)
