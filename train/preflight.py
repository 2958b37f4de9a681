"""What a run will take, before anything of it is loaded: memory, time, and a place when served.

The base is built on PyTorch's meta device, where tensors have shapes and no content, and one step
is taken there: what autograd saves for the backward pass is what activations will take, whatever
the architecture. Only its config.json is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from adapters.errors import Rejected
from adapters.lint import rank_class
from train.recipe import Recipe
from train.tuners import checkpoints_gradients, compute_dtype

_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight: 4 bits, an 8-bit scale for 64 of them, and a float for 256 scales (QLoRA, §3)."""
_LEARNT_BYTES = 4 + 4 + 8
"""What learns: itself, its gradient and Adam's two moments, all in float32."""
_LEARNT_8BIT_BYTES = 4 + 4 + 2
_HEAD_TEMPORARIES = 2
"""Beside the logits: their gradient and that of their softmax, at once in the first step back."""
_PASSES = 2
"""Multiplications by each weight: forward, and back to the inputs; frozen ones get no gradient."""
_ATTAINED = 0.6
"""Of the speed of one large product, what a whole step attains."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's cost. Bytes at its peak; seconds for all steps."""

    base_bytes: int
    learnt_bytes: int
    activation_bytes: int
    logit_bytes: int
    process_bytes: int
    """What Python and its libraries take already; on a GPU, CUDA's context."""
    available_bytes: int
    trainable_parameters: int
    base_parameters: int
    flops_per_token: int
    slot_bytes: int
    """What the adapter will take in one of the server's slots, in the base's type."""
    max_lora_rank: int
    """What `vllm serve --max-lora-rank` must be at least."""

    @property
    def peak_bytes(self) -> int:
        """All of it together."""
        parts = (self.base_bytes, self.learnt_bytes, self.activation_bytes, self.logit_bytes)
        return sum(parts) + self.process_bytes

    @property
    def fits(self) -> bool:
        """Whether this machine has as much."""
        return self.peak_bytes <= self.available_bytes

    def as_json(self) -> dict[str, int]:
        """Return it as `adapters train --dry-run --json` prints it."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}


def estimate(base: Path, recipe: Recipe, *, length: int) -> Estimate:
    """Return what a recipe takes on a base, of which `base` need only hold the config.json.

    `length`: tokens of the longest row, at most the recipe's `max_length`.
    """
    config = AutoConfig.from_pretrained(base)
    dtype = compute_dtype(base)
    with torch.device("meta"):
        config._attn_implementation = _ATTENTION
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    linear, rest = _parameters(model)
    quantised = recipe.tuner == "qlora"
    base_bytes = linear * (_NF4_BYTES if quantised else dtype.itemsize)
    base_bytes += rest * (4 if quantised else dtype.itemsize)  # k-bit training keeps them in fp32
    adapted = _adapted(model, recipe)
    learnt = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    tokens = recipe.per_device_train_batch_size * length
    saved, logits = _saved(adapted, recipe.per_device_train_batch_size, length)
    if checkpoints_gradients(recipe):
        layers = config.get_text_config().num_hidden_layers
        kept = tokens * config.get_text_config().hidden_size * dtype.itemsize
        saved = (saved - logits) // layers + layers * kept + logits
    return Estimate(
        base_bytes=int(base_bytes),
        learnt_bytes=learnt * (_LEARNT_8BIT_BYTES if "8bit" in recipe.optim else _LEARNT_BYTES),
        activation_bytes=saved,
        logit_bytes=logits * (1 + _HEAD_TEMPORARIES),
        process_bytes=_process_bytes(),
        available_bytes=available_bytes(),
        trainable_parameters=learnt,
        base_parameters=linear + rest,
        flops_per_token=2 * (_PASSES + checkpoints_gradients(recipe)) * (linear + learnt),
        slot_bytes=_slot_bytes(learnt, recipe, dtype),
        max_lora_rank=rank_class(recipe.r),
    )


def check(found: Estimate, base: Path, recipe: Recipe, *, length: int) -> None:
    """Refuse what cannot fit.

    Raises:
        Rejected: it needs more than this machine has; the fix names the flags that would make it
            fit, tried one after another, and together.
    """
    if found.fits:
        return
    tried: list[str] = []
    for flags in _smaller(recipe):
        tried.append(" ".join(f"--{key.replace('_', '-')} {_flag(v)}" for key, v in flags.items()))
        less = estimate(base, replace(recipe, **flags), length=flags.get("max_length", length))
        if less.fits:
            fix = f"This would fit ({_gb(less.peak_bytes)}): {tried[-1]}"
            break
    else:
        fix = f"Not even {tried[-1]} would fit; take a smaller base, or a larger machine."
    raise Rejected(
        f"It would take {_gb(found.peak_bytes)} of memory, and {_gb(found.available_bytes)} are "
        f"free: the base {_gb(found.base_bytes)}, activations {_gb(found.activation_bytes)}, "
        f"logits {_gb(found.logit_bytes)}, what learns {_gb(found.learnt_bytes)}.",
        fix=fix,
    )


def largest_batch(base: Path, recipe: Recipe, *, length: int) -> Recipe:
    """Return the recipe with the largest batch that fits, and as much accumulated as before.

    The effective batch (rows a step) stays; so the same steps are taken, with fewer, larger
    batches in each.
    """
    rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    sizes = [size for size in range(rows, 0, -1) if rows % size == 0]
    for size in sizes:
        tried = replace(
            recipe, per_device_train_batch_size=size, gradient_accumulation_steps=rows // size
        )
        if estimate(base, tried, length=length).fits:
            return tried
    return tried


def expected_seconds(found: Estimate, tokens: int) -> float:
    """Return how long so many tokens will take, by the speed of one product measured here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 1024
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        (a @ a).sum().item()  # .item() waits for a GPU
        times.append(time.perf_counter() - started)
    flops_per_s = 2 * size**3 / min(times)
    return tokens * found.flops_per_token / (flops_per_s * _ATTAINED)


def available_bytes() -> int:
    """Return the memory that a run may take: of the GPU, or of the container or the machine.

    What this process holds already counts as available, as `process_bytes` is part of the peak.
    """
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved())
    words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(words["MemAvailable"].split()[0]) * 1024 + _process_bytes()
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, int(text) - used + _process_bytes())
    return free


# -- one step without content ---------------------------------------------------------------------

_ATTENTION = "preflight"


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


AttentionInterface.register(_ATTENTION, _attend)


def _parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Return the numbers of parameters: of the linear layers that QLoRA quantises, and the rest."""
    head = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    return linear, sum(p.numel() for p in model.parameters()) - linear


def _adapted(model: PreTrainedModel, recipe: Recipe) -> Any:
    targets = recipe.target_modules
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe.r,
            target_modules=targets if isinstance(targets, str) else list(targets),
        ),
    )


def _saved(model: Any, rows: int, length: int) -> tuple[int, int]:
    """Return the bytes that autograd saves in one step, and those of the logits among them."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=ids, labels=ids, use_cache=False).logits
    return sum(storage.nbytes() for storage in kept.values()), logits.numel() * 4


def _slot_bytes(learnt: int, recipe: Recipe, dtype: torch.dtype) -> int:
    """Return a slot's bytes: vLLM sizes slots for the rank class, not for the rank."""
    return learnt * rank_class(recipe.r) // recipe.r * dtype.itemsize


def _process_bytes() -> int:
    if torch.cuda.is_available():
        return 500 << 20  # CUDA's context and cuBLAS' workspaces
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _smaller(recipe: Recipe) -> list[Mapping[str, Any]]:
    """Return what to try, the least harmful first, each with all before it."""
    steps: list[dict[str, Any]] = []
    if recipe.per_device_train_batch_size > 1:
        rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        steps.append({"per_device_train_batch_size": 1, "gradient_accumulation_steps": rows})
    if not checkpoints_gradients(recipe):
        steps.append({"gradient_checkpointing": True})
    if recipe.tuner == "lora":
        steps.append({"tuner": "qlora"})
    if recipe.max_length > 512:
        steps.append({"max_length": 512})
    together: dict[str, Any] = {}
    found: list[Mapping[str, Any]] = []
    for step in steps:
        together |= step
        found.append(dict(together))
    return found or [{"per_device_train_batch_size": 1}]


def _flag(value: object) -> str:
    return "" if value is True else str(value)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
