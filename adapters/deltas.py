"""What an adapter changes, ΔW = scale · B A for each module, kept as factors and never formed.

Source of the scale: LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732), as PEFT computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.files import WEIGHTS_FILE
from adapters.lint import Scales, parts_of, read_config
from adapters.weights import read_header, values

if TYPE_CHECKING:
    from numpy import ndarray


@dataclass(frozen=True, slots=True)
class Delta:
    """ΔW = scale · B A of one module."""

    a: ndarray[Any, Any]
    """(r, in), float64"""
    b: ndarray[Any, Any]
    """(out, r), float64"""
    scale: float


def read_deltas(folder: Path) -> dict[str, Delta]:
    """Return ΔW of every module of an adapter that lint has passed, by module path.

    Raises:
        InvalidAdapter: the files cannot be read.
    """
    scales = Scales(read_config(folder))
    path = folder / WEIGHTS_FILE
    sides: dict[str, dict[str, ndarray[Any, Any]]] = {}
    for name, value in values(path, read_header(path)):
        if parts := parts_of(name):
            module, side = parts
            sides.setdefault(module, {})[side] = value
    return {
        module: Delta(pair["A"], pair["B"], scales.factor(module, pair["A"].shape[0]))
        for module, pair in sorted(sides.items())
        if {"A", "B"} <= pair.keys()
    }


def norm(delta: Delta) -> float:
    """Return ‖ΔW‖ (Frobenius)."""
    return abs(delta.scale) * _product_norm(delta.b, delta.a)


def distance(left: Delta, right: Delta) -> float:
    """Return ‖ΔW_left − ΔW_right‖ (Frobenius); the two are of one module, of any ranks.

    The difference is itself a product, [s₁B₁ −s₂B₂]·[A₁; A₂], so nothing cancels badly even
    where the two are nearly equal.
    """
    import numpy

    b = numpy.concatenate([left.scale * left.b, -right.scale * right.b], axis=1)
    return _product_norm(b, numpy.concatenate([left.a, right.a]))


def _product_norm(b: ndarray[Any, Any], a: ndarray[Any, Any]) -> float:
    """Return ‖B A‖: that of the small triangles of B = Q R and Aᵀ = Q' R'."""
    import numpy

    left: ndarray[Any, Any] = numpy.linalg.qr(b).R
    right: ndarray[Any, Any] = numpy.linalg.qr(a.T).R
    return float(numpy.linalg.norm(left @ right.T))
