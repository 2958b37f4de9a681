"""One training step on PyTorch's meta device, where tensors have shapes and no content.

What autograd saves for the backward pass is what activations will take, whatever the
architecture. Only the base's config.json is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.moe import ExpertsInterface

from train.recipe import Recipe
from train.tuners import attach, compute_dtype

_NAME = "shapes-only"
"""Of what stands in for attention and for experts."""


@dataclass(frozen=True, slots=True)
class MetaStep:
    """What a step was found to be made of. Counts are of parameters."""

    dtype: torch.dtype
    """What is computed in."""
    linear: int
    """Frozen ones that QLoRA quantises: those of all linear layers but the head."""
    largest_linear: int
    """Of one layer."""
    rest: int
    """Frozen ones that it does not."""
    head: int
    learnt: int
    layers: int
    hidden_size: int
    vocab_size: int
    widest: int
    """The most features that a layer has, in or out."""
    key_value_size: int
    """Numbers that a layer caches for a token, while answers are written."""
    saved_bytes: int
    """What autograd keeps of the layers."""


def meta_step(base: Path, recipe: Recipe, *, rows: int, length: int) -> MetaStep:
    """Take one step on rows of so many tokens; `base` need only hold the config.json.

    Raises:
        UsageError: see `train.tuners.attach`.
    """
    config, dtype = AutoConfig.from_pretrained(base), compute_dtype(base)
    config._attn_implementation = config._experts_implementation = _NAME
    if recipe.tuner in ("pissa", "olora"):  # they differ in what they begin as
        recipe = replace(recipe, tuner="lora", convert_rank=None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        adapted = attach(model, recipe)
    head = model.get_output_embeddings()
    frozen = [
        module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
        if not module.weight.requires_grad
    ]
    linear = sum(weight.numel() for weight in frozen)
    learnt = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return MetaStep(
        dtype=dtype,
        linear=linear,
        largest_linear=max((weight.numel() for weight in frozen), default=0),
        rest=sum(p.numel() for p in adapted.parameters()) - linear - learnt,
        head=head.weight.numel(),
        learnt=learnt,
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        widest=max(max(weight.shape) for weight in frozen or [head.weight.T[:1]]),
        key_value_size=2 * heads * size,
        saved_bytes=_saved(model.base_model, rows, length),
    )


def _saved(backbone: Any, rows: int, length: int) -> int:
    own = {parameter.untyped_storage()._cdata for parameter in backbone.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    backbone.train()
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(input_ids=ids, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


class _Attention(torch.autograd.Function):
    """Attention that saves what flash attention does, and not the square of the length."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> torch.Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError  # one step forward is all there is


def _attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
    return _Attention.apply(query, key, value).transpose(1, 2), None  # type: ignore[no-untyped-call]


def _route(self: Any, hidden: Any, chosen: Any, weights: Any) -> Any:
    """Send every token through its experts, as if each choice were the first: the sizes are."""

    def project(rows: Any, weight: Any) -> Any:
        return rows @ (weight[0] if self.is_transposed else weight[0].T)

    rows = hidden.repeat_interleave(chosen.size(-1), dim=0)
    inner = project(rows, self.gate_up_proj if self.has_gate else self.up_proj)
    inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
    out = project(inner, self.down_proj) * weights.reshape(-1, 1)
    return out.view(len(hidden), -1, hidden.size(-1)).sum(dim=1).to(hidden.dtype)


AttentionInterface.register(_NAME, _attend)
ExpertsInterface.register(_NAME, _route)
