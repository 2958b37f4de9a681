"""ΔW as two low-rank factors: cut from other factors or from the whole matrix, and written.

Source: randomised SVD with power iterations (Halko, Martinsson, Tropp, arXiv 0909.4061), which is
`torch.svd_lowrank`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy import ndarray

from adapters.deltas import Delta
from adapters.errors import Rejected
from adapters.files import CONFIG_FILE, WEIGHTS_FILE
from adapters.lint import RANK_CLASSES, rank_class

if TYPE_CHECKING:
    from torch import Tensor

Array = ndarray[Any, Any]
_OVERSAMPLING, _POWER_ITERATIONS = 8, 4


def cut_factors(a: Array, b: Array, r: int | None = None) -> Delta:
    """Return the best approximation of B A at rank r (Eckart-Young); None: at its own rank.

    `a`: (k, in), `b`: (out, k). Never forms B A. The result's factors share the singular values,
    so rounding them costs what rounding ΔW would, even where B A is a difference of two products.
    """
    q_out, r_out = numpy.linalg.qr(b)
    q_in, r_in = numpy.linalg.qr(a.T)
    u, s, vt = numpy.linalg.svd(r_out @ r_in.T, full_matrices=False)
    if r is None:
        r = max(1, int((s > s[0] * 1e-6).sum()))
    kept = min(r, len(s))
    root = numpy.sqrt(s[:kept])
    return Delta(root[:, None] * (vt[:kept] @ q_in.T), (q_out @ u[:, :kept]) * root, 1.0)


@dataclass(frozen=True, slots=True)
class Cut:
    """One ΔW at several ranks: the first r rows of `a` and columns of `b` are it at rank r."""

    a: Array
    """(k, in), float32"""
    b: Array
    """(out, k), float32"""
    size: float
    """‖ΔW‖² (Frobenius)"""
    lost: Mapping[int, float]
    """‖ΔW − B A‖² by rank, each measured on the factors."""

    def at(self, rank: int) -> Delta:
        """Return it at one of its ranks."""
        return Delta(self.a[:rank], self.b[:, :rank], 1.0)


def cut_matrix(delta: Tensor, ranks: Sequence[int]) -> Cut:
    """Cut ΔW (out, in), float32, to each of some ranks.

    Exact to float32 where ΔW has such a rank. Else as good as an SVD to a percent or so, at a
    fraction of its time; what is lost is measured, not taken from the singular values.
    """
    import torch

    largest = min(max(ranks), *delta.shape)
    sampled = largest + _OVERSAMPLING
    if 4 * sampled > min(delta.shape):
        u, s, vt = torch.linalg.svd(delta, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(delta, sampled, niter=_POWER_ITERATIONS)
        vt = v.T
    root = s[:largest].sqrt()
    a, b = root[:, None] * vt[:largest], u[:, :largest] * root
    lost = {}
    for rank in ranks:
        rest = torch.addmm(delta, b[:, :rank], a[:rank], alpha=-1)
        lost[rank] = _squared(rest)
    return Cut(a.numpy(), b.numpy(), _squared(delta), lost)


def _squared(matrix: Tensor) -> float:
    import torch

    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2


def write(deltas: Mapping[str, Delta], folder: Path, base: str | None) -> int:
    """Write a plain PEFT adapter of scale 1 (lora_alpha is r, module by module).

    Returns the smallest `max_lora_rank` that serves it.

    Raises:
        Rejected: a rank above what vLLM serves.
    """
    from safetensors.numpy import save_file

    ranks = {module: delta.a.shape[0] for module, delta in deltas.items()}
    largest = max(ranks.values())
    if largest > RANK_CLASSES[-1]:
        raise Rejected(
            f"The result has rank {largest}, vLLM serves {RANK_CLASSES[-1]} at most.",
            fix="Cut it: merge --method svd --r 128, or lint --fix --rank 128.",
        )
    others = {module: rank for module, rank in ranks.items() if rank != largest}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "inference_mode": True,
    }
    tensors = {}
    for module, delta in deltas.items():
        path = f"base_model.model.{module}"
        embedding = module.endswith("embed_tokens")
        names = ("embedding_A", "embedding_B") if embedding else ("A.weight", "B.weight")
        for name, values in zip(names, (delta.a, delta.scale * delta.b), strict=True):
            tensors[f"{path}.lora_{name}"] = numpy.ascontiguousarray(values, dtype=numpy.float32)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return rank_class(largest)
