"""Which modules of a layer LoRA may change after its attention: a perceptron, or experts.

Of mixtures only what PEFT 0.21 on transformers 5 and vLLM 0.32 take alike is listed. Left out are
the router and the shared expert's gate where vLLM computes them without the adapter, qwen3_moe's
dense layers, which PEFT takes for experts, and qwen2_moe's experts, which PEFT does not load one
by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Sizes = dict[str, tuple[int, int]]

FUSED = frozenset({"mixtral", "qwen3_moe"})
"""Where PEFT rewrites pairs of single experts into those of a layer's two parameters."""
_NAMES = ("gate_proj", "up_proj", "down_proj")


def feed_forward(config: Mapping[str, Any], layer: int) -> Sizes:
    """Return (in, out) of each projection of one layer after its attention, dense or mixed.

    Raises:
        KeyError, TypeError: the configuration lacks what its architecture needs.
    """
    kind, hidden = config["model_type"], config["hidden_size"]
    if kind == "mixtral":
        count, inner = config["num_local_experts"], config["intermediate_size"]
        experts = _experts("block_sparse_moe", count, hidden, inner, ("w1", "w3", "w2"))
        return {**experts, "block_sparse_moe.gate": (hidden, count)}
    step = config.get("decoder_sparse_step") or 1
    mixed = (layer + 1) % step == 0 and layer not in (config.get("mlp_only_layers") or ())
    if kind == "qwen3_moe":
        # transformers 5 writes num_local_experts here too.
        count = config.get("num_experts") or config["num_local_experts"]
        inner = config["moe_intermediate_size"]
        return _experts("mlp", count, hidden, inner) if mixed else {}
    if kind == "qwen2_moe" and mixed:
        shared = _gated("mlp.shared_expert", hidden, config["shared_expert_intermediate_size"])
        return {**shared, "mlp.gate": (hidden, config["num_experts"])}
    return _gated("mlp", hidden, config["intermediate_size"])


def _gated(block: str, hidden: int, inner: int, names: tuple[str, str, str] = _NAMES) -> Sizes:
    """Return (in, out) of a gated perceptron's projections; `names`: of gate, up and down."""
    gate, up, down = (f"{block}.{name}" for name in names)
    return {gate: (hidden, inner), up: (hidden, inner), down: (inner, hidden)}


def _experts(
    block: str, count: int, hidden: int, inner: int, names: tuple[str, str, str] = _NAMES
) -> Sizes:
    found: Sizes = {}
    for expert in range(count):
        found |= _gated(f"{block}.experts.{expert}", hidden, inner, names)
    return found
