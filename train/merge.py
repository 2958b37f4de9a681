"""Merge versions into a new one: several ΔW of one base as one low-rank ΔW.

Sources: PEFT's `add_weighted_adapter` for the methods' names and meaning; TIES (arXiv 2306.01708),
DARE (arXiv 2311.03099). Every parent's own scale, rsLoRA's included, is folded into its factors
first, so weights mean the same for all of them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy import ndarray

from adapters import bases
from adapters.card import card
from adapters.deltas import Delta, distance, norm, read_deltas
from adapters.errors import BaseMismatch, Rejected, UsageError
from adapters.files import SERVING_FILE
from adapters.lint.classifier import CLASSIFIER
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version, check_name
from train.lowrank import cut_factors, write

METHODS = ("cat", "svd", "linear", "ties", "dare_ties")
_EXACT_ERROR = 1e-4
"""Relative, of float32 weights on real activations."""
_PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    'Reply with JSON: {"name": "Anna", "age": 42}',
    "Was kostet die Lieferung nach Zürich, bitte?",
    "今天天气怎么样？",
    "def add(a: int, b: int) -> int:\n    return a + b",
)

Array = ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Merge:
    """What to merge, and how. `r`: the rank to cut to under `svd`; None keeps it exact."""

    refs: tuple[str, ...]
    weights: tuple[float, ...]
    name: str
    method: str = "cat"
    r: int | None = None
    density: float = 0.5
    """Share of the entries that `ties` and `dare_ties` keep."""
    seed: int = 0


def merge(asked: Merge, registry: Registry, *, base: str | None = None) -> Version:
    """Publish the merger of several versions, with all of them as its parents. Atomic.

    `metrics["merge_error"]` is the largest relative error of any module against Σ wᵢ ΔWᵢ, on
    real activations of the base.

    Raises:
        UsageError, InvalidName, NotFound: what is asked for cannot be meant, or is not there.
        BaseMismatch: the versions are of different bases.
        Rejected: the ranks do not go with the method, or the result exceeds what vLLM serves.
    """
    check_name(asked.name)
    _check(asked)
    versions = [registry.resolve(ref) for ref in asked.refs]
    origin = versions[0].manifest.base
    for version in versions[1:]:
        if version.manifest.base.revision != origin.revision:
            raise BaseMismatch(
                f"{versions[0].ref} is of {origin.name}, {version.ref} of "
                f"{version.manifest.base.name}.",
                fix="Merge versions of one base.",
            )
    if bare := [v.ref for v in versions if v.manifest.kind == "prompt"]:
        raise Rejected(
            f"{', '.join(bare)} has no weights, only a prompt.",
            fix="Merge what it stands on, and give the outcome the prompt: adapters prompt new",
        )
    if heads := [v.ref for v in versions if v.manifest.peft.get("task_type") == CLASSIFIER]:
        raise Rejected(
            f"{', '.join(heads)} has a head beside its LoRA, which nothing merges.",
            fix="Merge versions that generate text.",
        )
    found = bases.resolve(base or origin.id)
    parents = [read_deltas(version.path) for version in versions]
    weighted = [
        {m: Delta(d.a, d.b, d.scale * weight) for m, d in parent.items()}
        for parent, weight in zip(parents, asked.weights, strict=True)
    ]
    merged = {
        module: _combine([parent.get(module) for parent in weighted], asked)
        for module in sorted({module for parent in parents for module in parent})
    }
    error = worst_error(merged, weighted, activations(found.path, list(merged)))
    if asked.method == "cat" and error > _EXACT_ERROR:
        raise Rejected(
            f"The merger is off by {error:.2g}, so nothing was published.",
            fix="This should be exact: report it with the versions' recipes.",
        )
    with tempfile.TemporaryDirectory(prefix="adapters-merge-") as folder:
        rank = write(merged, Path(folder), origin.name)
        recipe = {
            "merge": asked.method,
            "parents": [version.ref for version in versions],
            "weights": list(asked.weights),
            "r": asked.r,
            "density": asked.density if "ties" in asked.method else None,
            "seed": asked.seed if "dare" in asked.method else None,
        }
        if common := _common([version.manifest.serving for version in versions]):
            (Path(folder) / SERVING_FILE).write_bytes(Serving.from_json(common).to_bytes())
        metrics = {"merge_error": error}
        text = card(asked.name, origin, recipe, {}, metrics, rank, serving=common)
        (Path(folder) / "README.md").write_text(text, encoding="utf-8")
        return registry.publish(
            asked.name,
            Path(folder),
            base=origin,
            base_path=found.path,
            recipe=recipe,
            metrics=metrics,
            parents=[version.engine_name for version in versions],
        )


def _common(defaults: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the serving defaults that all parents agree on: each was trained to be asked so."""
    first, *others = defaults
    return {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}


def _check(asked: Merge) -> None:
    if len(asked.refs) < 2:
        raise UsageError("A merger needs two versions.", fix="Name two or more.")
    if len(asked.weights) != len(asked.refs):
        raise UsageError(
            f"{len(asked.refs)} versions, {len(asked.weights)} weights.",
            fix="Give each its weight, e.g. --weights 0.7,0.3.",
        )
    if not all(math.isfinite(weight) and weight for weight in asked.weights):
        raise UsageError("A weight is zero or no number.", fix="Leave that version out.")
    if asked.method not in METHODS:
        raise UsageError(f"No method {asked.method!r}.", fix=f"Use {', '.join(METHODS)}.")
    if asked.r is not None and asked.method != "svd":
        raise UsageError("--r goes with --method svd.", fix="Leave it out, or use svd.")
    if not 0 < asked.density <= 1:
        raise UsageError(f"density is {asked.density}.", fix="Use 0 to 1.")


# -- combining ------------------------------------------------------------------------------------


def _combine(parts: Sequence[Delta | None], asked: Merge) -> Delta:
    """Merge one module of all parents, already weighted; the result's scale is 1."""
    present = [part for part in parts if part is not None]
    if asked.method in ("cat", "svd"):
        a = numpy.concatenate([part.a for part in present])
        b = numpy.concatenate([part.scale * part.b for part in present], axis=1)
        return Delta(a, b, 1.0) if asked.method == "cat" else cut_factors(a, b, asked.r)
    if len(present) < len(parts) or len({part.a.shape[0] for part in present}) > 1:
        raise Rejected(
            f"{asked.method} needs the same modules at the same rank in every version.",
            fix="Use --method cat, or svd.",
        )
    combine = _factorwise(asked)
    # √ of weight and scale on either side, the sign on one, so that B A carries both.
    roots = [math.sqrt(abs(part.scale)) for part in present]
    a = combine([part.a for part in present], roots)
    signed = [math.copysign(root, part.scale) for root, part in zip(roots, present, strict=True)]
    return Delta(a, combine([part.b for part in present], signed), 1.0)


def _factorwise(asked: Merge) -> Callable[[list[Array], list[float]], Array]:
    """Return PEFT's combination of factors, which is rough: B A of sums is no sum of B A."""
    import torch
    from peft.utils.merge_utils import dare_ties, task_arithmetic, ties

    def combine(factors: list[Array], weights: list[float]) -> Array:
        tensors = [torch.from_numpy(factor) for factor in factors]
        given = torch.tensor(weights, dtype=torch.float64)
        if asked.method == "linear":
            result = task_arithmetic(tensors, given)
        elif asked.method == "ties":
            result = ties(tensors, given, asked.density)
        else:
            torch.manual_seed(asked.seed)
            result = dare_ties(tensors, given, asked.density)
        merged: Array = result.numpy()
        return merged

    return combine


# -- checking -------------------------------------------------------------------------------------


def activations(base: Path, modules: Sequence[str]) -> dict[str, Array]:
    """Return what the base feeds each linear module on a few texts: (tokens, in), float64."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    seen: dict[str, list[Array]] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            values = inputs[0].detach().double().flatten(0, -2).numpy()
            seen.setdefault(name, []).append(values)

        return hook

    for name, module in model.named_modules():
        if name in modules and hasattr(module, "in_features"):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for text in _PROBES:
            model(**tokenizer(text, return_tensors="pt"))
    return {name: numpy.concatenate(values) for name, values in seen.items()}


def worst_error(
    merged: Mapping[str, Delta],
    weighted: Sequence[Mapping[str, Delta]],
    inputs: Mapping[str, Array],
) -> float:
    """Return the largest relative error over modules: ‖x (M − Σ wΔW)ᵀ‖ / ‖x (Σ wΔW)ᵀ‖.

    A module without activations (an embedding) is compared by its weights.
    """
    worst = 0.0
    for module, result in merged.items():
        parts = [parent[module] for parent in weighted if module in parent]
        if module in inputs:
            x = inputs[module]
            wanted = sum((_apply(part, x) for part in parts), numpy.zeros(1))
            size = float(numpy.linalg.norm(wanted))
            apart = float(numpy.linalg.norm(_apply(result, x) - wanted))
        else:
            exact = Delta(
                numpy.concatenate([part.a for part in parts]),
                numpy.concatenate([part.scale * part.b for part in parts], axis=1),
                1.0,
            )
            size, apart = norm(exact), distance(result, exact)
        worst = max(worst, apart / size if size else apart)
    return worst


def _apply(delta: Delta, x: Array) -> Array:
    product: Array = delta.scale * ((x @ delta.a.T) @ delta.b.T)
    return product
