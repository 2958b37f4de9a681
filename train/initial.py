"""What training changed of an adapter that began by changing its base, from its initial weights.

PiSSA, OLoRA, CorDA and LoRA-GA begin at B₀A₀ ≠ 0 and take s·B₀A₀ out of the base, so that training
starts from the base's own answers. On the base as it was, ΔW = s·(B A − B₀A₀): of rank 2r, and
exact whatever the base was computed in. PEFT's `path_initial_model_for_weight_conversion` stacks
the four factors as they are; here they are cut to a common 2r first, since a server that rounds
them to bfloat16 would round each product, and the difference of two such can be all noise.

LoftQ is not among them. It puts a quantised Q in the place of W, and B₀A₀ holds only what a rank
can of W − Q: ΔW = Q + s·B A − W has all of the quantisation's error in it, which no LoRA serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from adapters.deltas import Delta, read_deltas
from adapters.errors import AdaptersError, Rejected
from train.lowrank import cut_factors

CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
"""Initialisations that take B₀A₀ out of the base; PiSSA's fast form has `_niter_N` at its end."""
_FIX = "Name the folder that was saved before training (init_lora_weights=True): --initial DIR"


def changes_base(config: Mapping[str, Any]) -> str:
    """Return which of `CHANGES_BASE` an adapter began with; empty for none."""
    init = str(config.get("init_lora_weights", True)).lower().partition("_niter_")[0]
    return init if init in CHANGES_BASE else ""


def find(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the initial adapter where training leaves it: `pissa_init` beside the folder.

    That is where LLaMA-Factory and PEFT's examples have it; the others by the same rule.
    """
    kind = changes_base(config)
    place = folder.parent / f"{kind}_init"
    return place if kind and place.is_dir() else None


def difference(
    folder: Path, initial: Path, rank: int | None = None
) -> tuple[dict[str, Delta], ...]:
    """Return ΔW as it is written, and as it is meant, by module. `rank`: None keeps all 2r.

    Raises:
        Rejected: `initial` cannot be read, is not the adapter that `folder` began as, or is the
            same.
    """
    trained = read_deltas(folder)
    try:
        began = read_deltas(initial)
    except AdaptersError as error:
        raise Rejected(f"{initial} holds no initial weights: {error.message}", fix=_FIX) from error
    _check(folder, initial, trained, began)
    meant = {}
    for module, delta in trained.items():
        first = began[module]
        b = numpy.concatenate([delta.scale * delta.b, -first.scale * first.b], axis=1)
        meant[module] = Delta(numpy.concatenate([delta.a, first.a]), b, 1.0)
    written = {
        module: cut_factors(delta.a, delta.b, rank or delta.a.shape[0])
        for module, delta in meant.items()
    }
    return written, meant


def _check(
    folder: Path, initial: Path, trained: Mapping[str, Delta], began: Mapping[str, Delta]
) -> None:
    if trained.keys() != began.keys():
        other = min(trained.keys() ^ began.keys())
        where = folder if other in trained else initial
        raise Rejected(f"Only {where} has {other}: {initial} is not how it began.", fix=_FIX)
    same = True
    for module, delta in trained.items():
        first = began[module]
        if (delta.a.shape, delta.b.shape) != (first.a.shape, first.b.shape):
            raise Rejected(
                f"{module} is {_shape(delta)} in {folder} and {_shape(first)} in {initial}.",
                fix=_FIX,
            )
        if delta.scale != first.scale:
            raise Rejected(
                f"{module} is scaled by {delta.scale:g} in {folder} and by {first.scale:g} in "
                f"{initial}.",
                fix=_FIX,
            )
        if not (numpy.isfinite(first.a).all() and numpy.isfinite(first.b).all()):
            raise Rejected(f"{initial} has NaN or infinity in {module}.", fix=_FIX)
        same &= numpy.array_equal(delta.a, first.a) and numpy.array_equal(delta.b, first.b)
    if same:
        raise Rejected(f"{folder} is what {initial} is: nothing was trained.", fix=_FIX)


def _shape(delta: Delta) -> str:
    return f"{delta.a.shape[1]} to {delta.b.shape[0]} at rank {delta.a.shape[0]}"
