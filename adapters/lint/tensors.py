"""Tensors against the configuration and the base: names, pairs, sizes; then the values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.files import WEIGHTS_FILE
from adapters.lint.config import is_rank, is_scale
from adapters.lint.findings import Finding
from adapters.lint.targets import Targets, suffixes
from adapters.projections import every, problem
from adapters.weights import Tensor, peaks

_KEY = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]{1,512})\.lora_"
    r"(?:(?P<side>[AB])\.weight|embedding_(?P<embedding_side>[AB]))"
)
_EXPERTS = re.compile(r"(^|\.)(experts|gate|router|shared_expert_gate)(\.|$)")
# (largest, smallest that is not rounded to zero) of the types that vLLM casts weights to.
_RANGES = {
    "float16": (65504.0, 2.0**-25),
    "bfloat16": (3.3895e38, 2.0**-134),
    "float32": (3.4028e38, 2.0**-150),
}


def module_of(key: str) -> str | None:
    """Return the module path of a LoRA tensor's name; None for any other name."""
    found = _KEY.fullmatch(key)
    return found["module"] if found else None


def check_tensors(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    base_config: Mapping[str, Any] | None,
) -> tuple[set[str], list[Finding]]:
    """Check what the header alone says; return the modules that do not fit, and all findings."""
    findings: list[Finding] = []
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = _KEY.fullmatch(key)
        if not found:
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
        side = found["side"] or found["embedding_side"]
        sides.setdefault(found["module"], {})[side] = tensor
    if not tensors:
        findings.append(
            Finding("key", WEIGHTS_FILE, "holds no tensor", "Save the trained adapter.")
        )
    targeted, unfit = Targets(config), set()
    for module, pair in sides.items():
        if said := list(_check_pair(config, targeted, module, pair, base_config)):
            unfit.add(module)
            findings += said
    for module in every(base_config) if base_config else ():
        if module not in sides and targeted(module):
            findings.append(
                Finding("missing", module, "is targeted and has no tensors", "Save it whole again.")
            )
    return unfit, findings


def _check_pair(
    config: Mapping[str, Any],
    targeted: Targets,
    module: str,
    pair: Mapping[str, Tensor],
    base_config: Mapping[str, Any] | None,
) -> Iterator[Finding]:
    if _EXPERTS.search(module):
        yield Finding(
            "experts", module, "LoRA on experts or their router", "Train the attention alone."
        )
    if targeted(module) is False:
        yield Finding(
            "target", module, "target_modules and its like leave it out", "Name it there."
        )
    if set(pair) != {"A", "B"}:
        yield Finding("pair", module, "has only one of lora_A and lora_B", "Save it again.")
        return
    a, b = pair["A"].shape, pair["B"].shape
    rank = _of_module(config, "rank_pattern", "r", module)
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        yield Finding("shape", module, f"A {a} and B {b} do not multiply", "Save it again.")
    elif is_rank(rank) and a[0] != rank:
        yield Finding(
            "shape", module, f"rank {a[0]} where r says {rank}", "Correct r or rank_pattern."
        )
    elif base_config and (said := problem(base_config, module, a[1], b[0])):
        yield Finding("base", module, said, "Train on this base, or name the right one.")


def _of_module(config: Mapping[str, Any], pattern: str, default: str, module: str) -> Any:
    """Return what PEFT and vLLM take for a module: of the first pattern that it ends with."""
    patterns = config.get(pattern)
    if isinstance(patterns, dict) and patterns:
        ends = set(suffixes(module))
        for key, value in patterns.items():
            if key in ends:
                return value
    return config.get(default)


def check_values(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    base_config: Mapping[str, Any] | None,
) -> Iterator[Finding]:
    """Check that the values are finite, stay so in the base's type, and change something."""
    base_type = (base_config or {}).get("dtype") or (base_config or {}).get("torch_dtype")
    largest, smallest = _RANGES.get(str(base_type), _RANGES["float32"])
    moved: dict[str, list[bool]] = {}
    for name, peak in peaks(path, tensors):
        module = module_of(name)
        scale = _scale(config, module, tensors[name]) if module and "_B" in name else 1.0
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


def _scale(config: Mapping[str, Any], module: str, b: Tensor) -> float:
    """Return what vLLM multiplies B by when it loads."""
    alpha = _of_module(config, "alpha_pattern", "lora_alpha", module)
    rank = b.shape[-1] if b.shape else 0
    if not is_scale(alpha) or not rank:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
