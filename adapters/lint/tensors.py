"""Tensors against the configuration and the base: names, pairs, sizes; then the values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.files import WEIGHTS_FILE
from adapters.lint.base import Base
from adapters.lint.config import is_rank, is_scale
from adapters.lint.copies import is_copy
from adapters.lint.experts import check_experts, is_expert
from adapters.lint.findings import Finding
from adapters.lint.scales import Scales
from adapters.projections import problem
from adapters.weights import Tensor, peaks

_KEY = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]{1,512})\.lora_"
    r"(?:(?P<side>[AB])\.weight|embedding_(?P<embedding_side>[AB]))"
)
# (largest, smallest that is not rounded to zero) of the types that vLLM casts weights to.
_RANGES = {
    "float16": (65504.0, 2.0**-25),
    "bfloat16": (3.3895e38, 2.0**-134),
    "float32": (3.4028e38, 2.0**-150),
}


def parts_of(key: str) -> tuple[str, str] | None:
    """Return the module path and the side, A or B, of a LoRA tensor's name; else nothing."""
    found = _KEY.fullmatch(key)
    return (found["module"], found["side"] or found["embedding_side"]) if found else None


def check_tensors(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    targeted: Callable[[str], bool],
    scales: Scales,
    base: Base,
) -> tuple[set[str], list[Finding]]:
    """Check what the header alone says; return the modules that do not fit, and all findings.

    Raises:
        InvalidAdapter: the configuration's expressions take too long.
    """
    findings: list[Finding] = []
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        parts = parts_of(key)
        if is_copy(key):
            continue
        if not parts:
            findings.append(
                Finding(
                    "key",
                    key[:300],
                    "not a LoRA tensor's name; vLLM would drop it",
                    "Save with PEFT and save_embedding_layers=False.",
                )
            )
            continue
        if tensor.dtype not in ("F32", "F16", "BF16"):
            findings.append(Finding("type", key, f"{tensor.dtype} is not served", "Save as float."))
        module, side = parts
        sides.setdefault(module, {})[side] = tensor
    if not tensors:
        findings.append(
            Finding("key", WEIGHTS_FILE, "holds no tensor", "Save the trained adapter.")
        )
    unfit = set()
    for module, pair in sides.items():
        if said := list(_check_pair(targeted, scales, module, pair, base)):
            unfit.add(module)
            findings += said
    mixed = list(check_experts(config, sides, targeted, scales, base))
    unfit.update(finding.where for finding in mixed)
    findings += mixed
    for module in base.sizes:
        if module not in sides and targeted(module) and not is_expert(module):
            findings.append(
                Finding("missing", module, "is targeted and has no tensors", "Save it whole again.")
            )
    return unfit, findings


def _check_pair(
    targeted: Callable[[str], bool],
    scales: Scales,
    module: str,
    pair: Mapping[str, Tensor],
    base: Base,
) -> Iterator[Finding]:
    if not targeted(module):
        yield Finding(
            "target", module, "target_modules and its like leave it out", "Name it there."
        )
    if set(pair) != {"A", "B"}:
        yield Finding("pair", module, "has only one of lora_A and lora_B", "Save it again.")
        return
    a, b = pair["A"].shape, pair["B"].shape
    rank = scales.rank(module)
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        yield Finding("shape", module, f"A {a} and B {b} do not multiply", "Save it again.")
    elif is_rank(rank) and a[0] != rank:
        yield Finding(
            "shape", module, f"rank {a[0]} where r says {rank}", "Correct r or rank_pattern."
        )
    elif base.config and (said := problem(base.config, base.sizes, module, a[1], b[0])):
        yield Finding("base", module, said, "Train on this base, or name the right one.")


def check_values(
    path: Path,
    tensors: Mapping[str, Tensor],
    scales: Scales,
    base_config: Mapping[str, Any] | None,
) -> Iterator[Finding]:
    """Check that the values are finite, stay so in the base's type, and change something.

    Raises:
        InvalidAdapter: the configuration's expressions take too long.
    """
    base_type = (base_config or {}).get("dtype") or (base_config or {}).get("torch_dtype")
    largest, smallest = _RANGES.get(str(base_type), _RANGES["float32"])
    moved: dict[str, list[bool]] = {}
    for name, peak in peaks(path, tensors):
        module, side = parts_of(name) or ("", "")
        scale = _factor(scales, module, tensors[name]) if side == "B" else 1.0
        if not math.isfinite(peak):
            yield Finding(
                "value", name, "holds NaN or infinity; it would spoil other requests", "Retrain."
            )
        elif peak * max(1.0, scale) > largest:
            yield Finding(
                "value", name, f"{peak:.3g} × {scale:g} is infinite in {base_type}", "Retrain."
            )
        if module:
            moved.setdefault(module, []).append(not peak <= smallest)
    pairs = [sides for sides in moved.values() if len(sides) == 2]
    if pairs and not any(map(all, pairs)):
        yield Finding(
            "zero", WEIGHTS_FILE, "every B·A is zero: it answers as the base", "Train it."
        )


def _factor(scales: Scales, module: str, b: Tensor) -> float:
    """Return what vLLM multiplies B by when it loads."""
    sound = is_scale(scales.alpha(module)) and b.shape and b.shape[-1]
    return scales.factor(module, b.shape[-1]) if sound else 1.0
