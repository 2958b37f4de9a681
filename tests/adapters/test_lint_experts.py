"""What lint knows of mixtures of experts; tests/e2e/test_lint_moe.py holds it against vLLM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from adapters.lint import Report, check_adapter
from tests.conftest import RANK

_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_QWEN = {"moe_intermediate_size": 16, "mlp_only_layers": [0]}
BASES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**_SIZES, **_QWEN, "num_experts": 2},
    "qwen2_moe": {**_SIZES, **_QWEN, "num_experts": 2, "shared_expert_intermediate_size": 24},
    "mixtral": {**_SIZES, "num_local_experts": 2},
}
QUERIES = {f"layers.{layer}.self_attn.q_proj": (32, 32) for layer in range(2)}


def experts(block: str, names: str, inner: int, count: int = 2) -> dict[str, tuple[int, int]]:
    """Return (in, out) of each expert's projections; `names`: of gate, up and down."""
    gate, up, down = names.split()
    return {
        f"{block}.experts.{expert}.{name}": size
        for expert in range(count)
        for name, size in {gate: (32, inner), up: (32, inner), down: (inner, 32)}.items()
    }


QWEN = experts("layers.1.mlp", "gate_proj up_proj down_proj", 16)
MIXTRAL = {
    **experts("layers.0.block_sparse_moe", "w1 w3 w2", 48),
    **experts("layers.1.block_sparse_moe", "w1 w3 w2", 48),
}
ROUTERS = {f"layers.{layer}.block_sparse_moe.gate": (32, 2) for layer in range(2)}
ROUTER = {"layers.1.mlp.gate": (32, 2)}
FUSED = {"layers.1.mlp.experts.base_layer": (32, 32), "layers.1.mlp.experts": (16, 32)}
PERCEPTRON = {
    "layers.0.mlp.gate_proj": (32, 48),
    "layers.0.mlp.up_proj": (32, 48),
    "layers.0.mlp.down_proj": (48, 32),
}
SHARED = {
    "layers.1.mlp.shared_expert.gate_proj": (32, 24),
    "layers.1.mlp.shared_expert.up_proj": (32, 24),
    "layers.1.mlp.shared_expert.down_proj": (24, 32),
}


def lint(folder: Path, base: str, sizes: Mapping[str, tuple[int, int]], **fields: Any) -> Report:
    tensors = {}
    for module, (size_in, size_out) in sizes.items():
        name = f"base_model.model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = numpy.ones((RANK, size_in), "float32")
        tensors[f"{name}.lora_B.weight"] = numpy.ones((size_out, RANK), "float32")
    save_file(tensors, folder / "adapter_model.safetensors")
    named = sorted({module.rpartition(".")[2] for module in sizes})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": named}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    return check_adapter(folder, {"model_type": base, **BASES[base]})


@pytest.mark.parametrize(
    ("base", "sizes", "fields"),
    [
        ("qwen3_moe", QUERIES, {}),
        ("qwen2_moe", QUERIES, {}),
        ("mixtral", QUERIES, {"use_rslora": True}),
        ("qwen3_moe", QWEN, {}),
        ("qwen3_moe", {**QUERIES, **QWEN}, {"alpha_pattern": {"q_proj": 2, "down_proj": 3}}),
        ("qwen3_moe", {**QUERIES, **QWEN}, {"target_modules": r".*(q|gate|up|down)_proj"}),
        ("mixtral", {**QUERIES, **MIXTRAL, **ROUTERS}, {}),
        ("qwen2_moe", {**QUERIES, **PERCEPTRON, **SHARED}, {}),
        ("qwen2_moe", ROUTER, {"target_modules": [], "target_parameters": ["gate.weight"]}),
    ],
)
def test_what_is_served(
    tmp_path: Path, base: str, sizes: Mapping[str, tuple[int, int]], fields: Mapping[str, Any]
) -> None:
    report = lint(tmp_path, base, sizes, **fields)
    assert report.findings == report.warnings == ()
    assert report.matched == len(report.modules) == len(sizes)


@pytest.mark.parametrize(
    ("base", "sizes", "fields", "said"),
    [
        ("qwen3_moe", {**QUERIES, **FUSED}, {}, "one pair for all experts"),
        ("qwen3_moe", ROUTER, {}, "router"),
        ("mixtral", ROUTER, {}, "router"),
        ("qwen2_moe", {"layers.1.mlp.shared_expert_gate": (32, 1)}, {}, "router"),
        ("qwen2_moe", {**QWEN, **PERCEPTRON, **SHARED}, {}, "not known to take"),
        ("qwen3_moe", {**QWEN, **PERCEPTRON}, {}, "dense layer"),
        ("qwen3_moe", QWEN, {"use_rslora": True}, "another scale"),
        ("qwen3_moe", QWEN, {"alpha_pattern": {"up_proj": 2}}, "another scale"),
        ("qwen3_moe", QWEN, {"alpha_pattern": {"experts.1.down_proj": 2}}, "another scale"),
        ("mixtral", MIXTRAL, {"alpha_pattern": {"w2": 2}}, "another scale"),
        ("mixtral", {**QUERIES, **ROUTERS}, {"alpha_pattern": {"gate": 2}}, "another scale"),
    ],
)
def test_what_vllm_and_peft_take_differently(
    tmp_path: Path,
    base: str,
    sizes: Mapping[str, tuple[int, int]],
    fields: Mapping[str, Any],
    said: str,
) -> None:
    found = [f for f in lint(tmp_path, base, sizes, **fields).findings if f.check == "experts"]
    assert all(said in finding.message and finding.fix for finding in found)
    assert found


@pytest.mark.parametrize("left_out", ["experts.1.", "experts.0.up_proj", "down_proj"])
def test_experts_are_whole_or_not_there(tmp_path: Path, left_out: str) -> None:
    sizes = {name: size for name, size in QWEN.items() if left_out not in name}
    (found,) = lint(tmp_path, "qwen3_moe", {**QUERIES, **sizes}).findings
    assert (found.check, found.where) == ("experts", "model.layers.1.mlp.experts")


def test_experts_are_targeted_in_every_layer_or_in_none(tmp_path: Path) -> None:
    """PEFT rewrites them without regard to layers_to_transform, and finds no tensors there."""
    sizes = {name: size for name, size in MIXTRAL.items() if ".1.block" not in name}
    (found,) = lint(tmp_path, "mixtral", sizes, layers_to_transform=[0]).findings
    assert found.where == "model.layers.1.block_sparse_moe.experts"


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_experts(tmp_path: Path, count: int) -> None:
    sizes = experts("layers.1.mlp", "gate_proj up_proj down_proj", 16, count)
    assert lint(tmp_path, "qwen3_moe", sizes).findings


def test_experts_of_other_sizes(tmp_path: Path) -> None:
    sizes = experts("layers.1.mlp", "gate_proj up_proj down_proj", 12)
    found = lint(tmp_path, "qwen3_moe", sizes).findings
    assert {finding.check for finding in found} == {"base"}


def test_the_number_of_experts_goes_by_two_names(tmp_path: Path) -> None:
    """transformers 5 writes the other one."""
    lint(tmp_path, "qwen3_moe", QWEN)
    base = {**BASES["qwen3_moe"], "model_type": "qwen3_moe", "num_experts": None}
    assert check_adapter(tmp_path, {**base, "num_local_experts": 2}).findings == ()
