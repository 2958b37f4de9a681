"""What was trained as DoRA, PiSSA or OLoRA, as plain LoRA in its place, with the error measured.

DoRA is W' = m · (W + s B A) / ‖W + s B A‖, row by row: its true ΔW = W' − W is cut to a rank.
PiSSA and OLoRA begin as s B₀ A₀, which they take out of the base: what training changed is
s B A − s B₀ A₀, of rank 2r. That is exact in float32; of a base in 16 bits the rounding of what
is left of it is lost. (`train.convert` does the same to folders.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor

from adapters.deltas import Delta, distance, norm, read_deltas
from adapters.lint import RANK_CLASSES
from train.convert import EXACT, LARGEST_RANK
from train.lowrank import cut_factors, cut_matrix, write
from train.recipe import Recipe

_TRAINED, _PLAIN = "default", "plain"
Factors = tuple[Tensor, Tensor]
"""A (r, in) and B with the scale (out, r) of one module."""


def beginning(model: PeftModel, recipe: Recipe) -> dict[str, Factors]:
    """Return what an adapter begins as, by module; empty where it takes nothing of the base."""
    if recipe.tuner not in ("pissa", "olora"):
        return {}
    return {module: _factors(layer) for module, layer in _layers(model)}


@torch.no_grad()
def make_plain(
    model: PeftModel, began: Mapping[str, Factors], recipe: Recipe, out: Path
) -> dict[str, float]:
    """Write the adapter into `out` as plain LoRA, and put that in the place of what was trained.

    From then on the model is its base and what is in `out`, so what is measured on it is true of
    the version. Returns `conversion_error`: ‖ΔW − what is written of it‖ / ‖ΔW‖ over all modules
    (Frobenius).
    """
    if began:
        error = _write_difference(model, began, recipe.convert_rank, out)
        for module, layer in _layers(model):
            a, b = began[module]
            base = layer.get_base_layer().weight
            base.data += (b @ a).to(base)
    else:
        error = _write_cut(model, recipe.convert_rank, out)
    model.load_adapter(out, adapter_name=_PLAIN)
    model.set_adapter(_PLAIN)
    for name in set(model.peft_config) - {_PLAIN}:
        model.delete_adapter(name)
    return {"conversion_error": error}


def _layers(model: PeftModel) -> Iterator[tuple[str, LoraLayer]]:
    """Yield each module that learns, by its name in the base."""
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and _TRAINED in layer.lora_A:
            yield name, layer


def _factors(layer: LoraLayer) -> Factors:
    a, b = (side[_TRAINED].weight.detach().float() for side in (layer.lora_A, layer.lora_B))
    return a.clone(), b * layer.scaling[_TRAINED]


def _write_difference(
    model: PeftModel, began: Mapping[str, Factors], rank: int | None, out: Path
) -> float:
    meant, written = {}, {}
    for module, layer in _layers(model):
        (a, b), (first_a, first_b) = _factors(layer), began[module]
        factors = torch.cat([a, first_a]), torch.cat([b, -first_b], dim=1)
        a_both, b_both = (factor.double().cpu().numpy() for factor in factors)
        meant[module] = Delta(a_both, b_both, 1.0)
        written[module] = cut_factors(a_both, b_both, rank or min(len(a_both), RANK_CLASSES[-1]))
    write(written, out, None)
    there = read_deltas(out)
    lost = sum(distance(there[module], delta) ** 2 for module, delta in meant.items())
    return _relative(lost, sum(norm(delta) ** 2 for delta in meant.values()))


def _write_cut(model: PeftModel, rank: int | None, out: Path) -> float:
    ranks = [rank] if rank else [each for each in RANK_CLASSES if each <= LARGEST_RANK]
    cuts = {module: cut_matrix(_dora_delta(layer), ranks) for module, layer in _layers(model)}
    size = sum(cut.size for cut in cuts.values())
    errors = {each: _relative(sum(cut.lost[each] for cut in cuts.values()), size) for each in ranks}
    chosen = next((each for each in ranks if errors[each] <= EXACT), ranks[-1])
    write({module: cut.at(chosen) for module, cut in cuts.items()}, out, None)
    return errors[chosen]


def _dora_delta(layer: LoraLayer) -> Tensor:
    """Return W' − W (out, in), float32, of the weight that it was trained on."""
    weight: Tensor = dequantize_module_weight(layer.get_base_layer()).float()
    a, b = _factors(layer)
    direction = weight + b @ a
    length = layer.lora_magnitude_vector[_TRAINED].weight / direction.norm(dim=1)
    changed: Tensor = length[:, None] * direction
    return changed.sub_(weight).cpu()


def _relative(lost: float, size: float) -> float:
    return float((lost / size) ** 0.5) if size else 0.0
