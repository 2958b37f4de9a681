"""How two versions differ: base, recipe, dataset, metrics, and what they do to each module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adapters.deltas import distance, norm, read_deltas
from adapters.files import CONFIG_FILE, WEIGHTS_FILE
from adapters.types import Version

Change = tuple[object, object]
"""What it was on the left and on the right; None where a side lacks it."""


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """One module. Norms are Frobenius norms of ΔW."""

    module: str
    left_norm: float | None
    """None: the left version leaves this module as the base has it."""
    right_norm: float | None
    relative: float
    """‖ΔW_left − ΔW_right‖ over the larger norm: 0 the same, 1 one lacks it, up to 2 opposed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """All that tells two versions apart; empty where they are the same."""

    left: str
    right: str
    base: Mapping[str, Change]
    peft: Mapping[str, Change]
    recipe: Mapping[str, Change]
    dataset: Mapping[str, Change]
    metrics: Mapping[str, Change]
    serving: Mapping[str, Change]
    lineage: Mapping[str, Change]
    modules: tuple[ModuleChange, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON has it."""
        return asdict(self)


def compare(left: Version, right: Version) -> Difference:
    """Compare two versions, of one adapter or of two.

    Raises:
        InvalidAdapter: the weights of one cannot be read.
    """
    one, two = left.manifest, right.manifest
    return Difference(
        left=left.engine_name,
        right=right.engine_name,
        base=_changes(asdict(one.base), asdict(two.base)),
        peft=_changes(one.peft, two.peft),
        recipe=_changes(one.recipe, two.recipe),
        dataset=_changes(one.dataset, two.dataset),
        metrics=_changes(one.metrics, two.metrics),
        serving=_changes(one.serving, two.serving),
        lineage=_changes(
            {"parents": list(one.parents), "tags": list(one.tags), **one.code},
            {"parents": list(two.parents), "tags": list(two.tags), **two.code},
        ),
        modules=_modules(left, right),
    )


def _changes(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Change]:
    keys = dict.fromkeys([*left, *right])
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def _modules(left: Version, right: Version) -> tuple[ModuleChange, ...]:
    held = [[v.manifest.files.get(f) for f in (CONFIG_FILE, WEIGHTS_FILE)] for v in (left, right)]
    if held[0] == held[1]:
        return ()  # nothing to read
    before, after = (
        {} if version.manifest.kind == "prompt" else read_deltas(version.path)
        for version in (left, right)
    )
    found = []
    for module in sorted(before.keys() | after.keys()):
        one, two = before.get(module), after.get(module)
        norms = norm(one) if one else None, norm(two) if two else None
        larger = max(norms[0] or 0.0, norms[1] or 0.0)
        if one and two and (one.a.shape[1], one.b.shape[0]) == (two.a.shape[1], two.b.shape[0]):
            apart = distance(one, two)
        else:  # one lacks it, or they are of bases of different sizes
            apart = larger
        found.append(ModuleChange(module, *norms, apart / larger if larger else 0.0))
    return tuple(found)
