"""What a run will take, before anything of it is loaded: memory, time, and a place when served.

Memory is counted from one step without content (`train.metastep`) and from what TRL and
bitsandbytes hold beside it. `python -m loadtests.trainer memory` holds it against what runs took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adapters.errors import Rejected
from adapters.lint import rank_class
from train.head import TILE_VOCABULARY
from train.memory import available_bytes, process_bytes
from train.metastep import MetaStep, meta_step
from train.recipe import Recipe
from train.tuners import checkpoints_gradients

_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight: 4 bits, an 8-bit scale for 64 of them, and a float for 256 scales (QLoRA, §3)."""
_LEARNT_BYTES = (4 + 4 + 8, 4 + 4 + 2)
"""What learns: itself, its gradient and Adam's two moments, all in float32 or these in 8 bits."""
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32_768
"""Logits that TRL's fused head has at once (trl/kernels/chunked_logprob.py); on a CPU fewer."""
_TILE_FLOATS = 7.25
"""Float32 numbers beside each of them where there is no Triton to fold them in place."""
_FREED = 1.0
"""Of what a step allocates, the share that glibc holds beside it: before 2.38 it fails to put an
aligned block where one as large was freed (sourceware.org, bug 14581)."""
_LAYER_TENSORS = 4
"""Of a layer's widest size, that live beside what is saved while it is computed, there or back."""
_ROWS = {"dpo": 2, "reward": 2}
"""Sequences of a row: chosen and rejected."""
_ONLINE = ("grpo", "rloo")
_WORK = {"dpo": 4 / 3, "kto": 5 / 3}
"""Work of a token with that of the reference, as a multiple: forward is a third of a step."""
_ATTAINED = 0.5
"""Of the speed of one large product, what a whole step attains."""
_DOUBT = 0.2
"""How far an estimate may lie off."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run learns from, as its receipt counts it."""

    rows: int
    tokens: int
    """Of all of them."""
    longest: int
    """Tokens of the longest, at most `max_length`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's cost: of each of its processes, at its peak, in bytes; over all of its steps."""

    base_bytes: int
    learnt_bytes: int
    activation_bytes: int
    temporary_bytes: int
    """The most that one computation has beside them: logits, or a layer's dequantised weights."""
    freed_bytes: int
    """What the C library keeps of what was freed, on a CPU."""
    process_bytes: int
    """What Python and its libraries take already; on a GPU, CUDA's context."""
    available_bytes: int
    base_parameters: int
    trainable_parameters: int
    steps: int
    seconds: float | None
    """About; None where answers are written, whose number of tokens nobody knows."""
    slot_bytes: int | None
    """What the adapter will take in one of the server's slots; None of a full model."""
    max_lora_rank: int | None
    """What `vllm serve --max-lora-rank` must be at least."""
    measured: bool
    """Whether estimates of this kind were held against the memory that runs took."""

    @property
    def peak_bytes(self) -> int:
        """All of it together."""
        live = self.base_bytes + self.learnt_bytes + self.activation_bytes + self.temporary_bytes
        return live + self.freed_bytes + self.process_bytes

    @property
    def fits(self) -> bool:
        """Whether there is as much."""
        return self.peak_bytes <= self.available_bytes

    def as_json(self) -> dict[str, Any]:
        """Return it as `adapters train --dry-run --json` prints it."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}

    def __str__(self) -> str:
        share = 100 * self.trainable_parameters / self.base_parameters
        doubt = "" if self.measured else " (not measured for this kind of run)"
        took = "" if self.seconds is None else f" in about {_duration(self.seconds)}"
        slot = (
            f"; served: {_size(self.slot_bytes)} a slot, --max-lora-rank {self.max_lora_rank}"
            if self.slot_bytes
            else ""
        )
        return (
            f"estimate: {_size(self.peak_bytes)} of memory at its peak, "
            f"{_size(self.available_bytes)} available{doubt}; {self.steps} steps{took}; "
            f"{self.trainable_parameters:,} parameters learn ({share:.2g} %){slot}"
        )


def preflight(base: Path, recipe: Recipe, rows: Rows) -> tuple[Recipe, Estimate]:
    """Return what a run will take, and the recipe with its batch found where it asks for that.

    `base` need only hold the config.json.

    Raises:
        Rejected: it cannot fit; see `check`.
        UsageError: the base has no such target module.
    """
    if recipe.auto_find_batch_size:
        recipe = largest_batch(base, recipe, rows)
    found = estimate(base, recipe, rows)
    check(found, base, recipe, rows)
    return recipe, found


def estimate(base: Path, recipe: Recipe, rows: Rows) -> Estimate:
    """Return what a recipe takes on a base."""
    batch = recipe.per_device_train_batch_size * _ROWS.get(recipe.method, 1)
    longest = recipe.max_length if recipe.packing else rows.longest
    if recipe.method in _ONLINE:
        longest += recipe.max_completion_length
    step = meta_step(base, recipe, rows=batch, length=longest)
    tokens = batch * longest
    again = checkpoints_gradients(recipe)
    saved = step.saved_bytes
    if again:
        saved = saved // step.layers + step.layers * tokens * step.hidden_size * step.dtype.itemsize
    temporary = max(_head_bytes(step, recipe, tokens), _layer_bytes(step, recipe, tokens))
    if recipe.method in _ONLINE:  # writes answers when nothing is saved
        cached = tokens * recipe.gradient_accumulation_steps * step.layers * step.key_value_size
        saved, temporary = max((saved, temporary), (cached * step.dtype.itemsize, 0), key=sum)
    rest_size = 4 if recipe.quantised else step.dtype.itemsize  # k-bit training keeps it in fp32
    linear_size = _NF4_BYTES if recipe.quantised else step.dtype.itemsize
    steps = _steps(recipe, rows)
    passes = 3 if recipe.tuner == "full" else 2  # frozen weights get no gradient
    flops = 2 * (passes + again) * (step.linear + step.learnt) + 2 * 3 * step.head
    row = recipe.max_length if recipe.packing else rows.tokens / max(rows.rows, 1)
    read = steps * recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * row
    adapter = recipe.tuner != "full"
    return Estimate(
        base_bytes=int(step.linear * linear_size + step.rest * rest_size),
        learnt_bytes=step.learnt * _LEARNT_BYTES["8bit" in recipe.optim],
        activation_bytes=saved,
        temporary_bytes=int(temporary),
        freed_bytes=0 if torch.cuda.is_available() else int(_FREED * (saved + temporary)),
        process_bytes=process_bytes(),
        available_bytes=available_bytes(recipe.num_processes),
        base_parameters=step.linear + step.rest + (0 if adapter else step.learnt),
        trainable_parameters=step.learnt,
        steps=steps,
        seconds=None
        if recipe.method in _ONLINE
        else read * flops * _WORK.get(recipe.method, 1) / _flops_per_s(recipe.num_processes),
        slot_bytes=step.learnt * rank_class(recipe.r) // recipe.r * step.dtype.itemsize
        if adapter
        else None,
        max_lora_rank=rank_class(recipe.r) if adapter else None,
        measured=recipe.method == "sft"
        and recipe.tuner in ("lora", "qlora")
        and not (again or torch.cuda.is_available()),
    )


def check(found: Estimate, base: Path, recipe: Recipe, rows: Rows) -> None:
    """Refuse what cannot fit.

    Raises:
        Rejected: even if the estimate is too high by as much as it may be, it needs more than
            there is. The fix names flags that would make it fit, tried one after another.
    """
    if found.peak_bytes * (1 - _DOUBT) <= found.available_bytes:
        return
    tried = ""
    for flags in _smaller(recipe):
        tried = " ".join(_flag(key, value) for key, value in flags.items())
        longest = min(rows.longest, flags.get("max_length", rows.longest))
        less = estimate(base, replace(recipe, **flags), replace(rows, longest=longest))
        if less.fits:
            fix = f"This would fit ({_size(less.peak_bytes)}): {tried}"
            break
    else:
        fix = f"{tried} would not do. " if tried else ""
        fix += "Take a smaller base, or a larger machine."
    raise Rejected(
        f"It would take {_size(found.peak_bytes)} of memory, and {_size(found.available_bytes)} "
        f"are available: the base {_size(found.base_bytes)}, what learns "
        f"{_size(found.learnt_bytes)}, activations {_size(found.activation_bytes)}, temporaries "
        f"{_size(found.temporary_bytes)}, freed but kept by the C library "
        f"{_size(found.freed_bytes)}, libraries {_size(found.process_bytes)}.",
        fix=fix,
    )


def largest_batch(base: Path, recipe: Recipe, rows: Rows) -> Recipe:
    """Return the recipe with the largest batch that fits, and as much accumulated as before.

    The effective batch (rows a step) stays, so the same rows are learnt in the same steps. A batch
    of one row where none fits.
    """
    a_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    for size in range(a_step, 0, -1):
        if a_step % size:
            continue
        tried = replace(
            recipe, per_device_train_batch_size=size, gradient_accumulation_steps=a_step // size
        )
        if estimate(base, tried, rows).fits:
            break
    return tried


def _head_bytes(step: MetaStep, recipe: Recipe, tokens: int) -> float:
    """Return the logits' bytes in the first step back, and those of the gradient it gives."""
    if recipe.method == "reward":
        return 0
    gpu = torch.cuda.is_available()
    words = min(step.vocab_size, _TILE_VOCABULARY if gpu else TILE_VOCABULARY)
    tile = min(tokens, _TILE_TOKENS) * words
    beside = 0 if gpu else 4 * _TILE_FLOATS
    return tile * (step.dtype.itemsize + beside) + tokens * step.hidden_size * 4


def _layer_bytes(step: MetaStep, recipe: Recipe, tokens: int) -> float:
    """Return the bytes of a layer's weights, dequantised, and of what it computes meanwhile."""
    weights = step.largest_linear * step.dtype.itemsize if recipe.quantised else 0
    return weights + _LAYER_TENSORS * tokens * step.widest * step.dtype.itemsize


def _steps(recipe: Recipe, rows: Rows) -> int:
    if recipe.max_steps > 0:
        return recipe.max_steps
    count = math.ceil(rows.tokens / recipe.max_length) if recipe.packing else rows.rows
    if recipe.method in _ONLINE:
        count *= recipe.num_generations
    a_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    return math.ceil(recipe.num_train_epochs * math.ceil(count / (a_step * recipe.num_processes)))


def _flops_per_s(processes: int) -> float:
    """Return the speed of one large product here; processes on CPUs share them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, dtype = (4096, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a = torch.ones(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for a GPU
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) * _ATTAINED / (1 if device == "cuda" else processes)


def _smaller(recipe: Recipe) -> list[Mapping[str, Any]]:
    """Return what to try, the least harmful first, each with all before it."""
    steps: list[dict[str, Any]] = []
    if recipe.per_device_train_batch_size > 1:
        a_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        steps.append({"per_device_train_batch_size": 1, "gradient_accumulation_steps": a_step})
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
    return found


def _flag(key: str, value: object) -> str:
    name = f"--{key.replace('_', '-')}"
    return name if value is True else f"{name} {value}"


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
