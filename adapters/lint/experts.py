"""LoRA on mixtures of experts: where PEFT and vLLM take one file for two different adapters.

transformers 5 fuses the experts of a layer into two parameters, and PEFT 0.21 rewrites the
targets, ranks and scales of adapters that name single experts
(`peft.utils.transformers_weight_conversion._convert_peft_config_moe`). vLLM 0.32 takes a pair of
factors for each projection of each expert, all of them or none (`PackedLoRALayerWeights.pack_moe`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from adapters.lint.base import Base
from adapters.lint.expressions import Clock
from adapters.lint.findings import Finding
from adapters.lint.scales import Scales
from adapters.lint.targets import Targets
from adapters.mixtures import FUSED

_SINGLE = re.compile(r".+\.(?:mlp|block_sparse_moe)\.experts\.[0-9]+\.(?P<name>[^.]+)")
_INDEX = re.compile(r"\.experts\.[0-9]+\.")
_ROUTER = re.compile(r"(.*\.)?(gate|router|shared_expert_gate)")
_MIXED = re.compile(r"(.*\.)?(experts|gate|router|shared_expert_gate)(\..*)?")
_DENSE = re.compile(r"(.*\.)?mlp\.(gate|up|down)_proj")
_PARAMETERS = {
    **dict.fromkeys(("gate_proj", "up_proj", "w1", "w3"), "gate_up_proj"),
    **dict.fromkeys(("down_proj", "w2"), "down_proj"),
    "gate": "gate.weight",
}
"""By the name of a projection, the parameter that holds it since transformers 5."""


def targets(config: Mapping[str, Any], base: Base, clock: Clock) -> Callable[[str], bool]:
    """Return what says whether PEFT adapts a module, on this base.

    Where PEFT rewrites the targets it keeps only the last parts of names: experts are targeted in
    all layers or in none, and an expression counts for every module of a name that it matches.

    Raises:
        InvalidAdapter: the configuration's expressions take too long.
    """
    plain, named = Targets(config, clock), config.get("target_modules") or []
    parameters = config.get("target_parameters") or []
    if not _rewrites(base):
        if not base.proven:
            return plain
        routed = Targets({"target_parameters": parameters}, clock)  # a router's weight, not itself
        return lambda module: (routed if module.endswith(".mlp.gate") else plain)(module)
    if isinstance(named, str):
        fused = {_INDEX.sub(".experts.", _as_now(module)) for module in base.sizes}
        named = sorted({_last(module) for module in filter(plain, fused)})
        plain = Targets({**config, "target_modules": named}, clock)
    names = {_last(name.removesuffix(".weight")) for name in (*named, *parameters)}
    return lambda module: _last(module) in names if _MIXED.fullmatch(module) else plain(module)


def check_experts(
    config: Mapping[str, Any],
    modules: Collection[str],
    targeted: Callable[[str], bool],
    scales: Scales,
    base: Base,
) -> Iterator[Finding]:
    """Find LoRA on experts and routers that vLLM does not serve as PEFT means it.

    Raises:
        InvalidAdapter: the configuration's expressions take too long.
    """
    for module in modules:
        if said := _problem(config, scales, base, module):
            yield Finding("experts", module, said, "Train the attention alone.")
    begun = {_place(module) for module in modules if is_expert(module)}
    absent = [module for module in base.sizes if is_expert(module) and module not in modules]
    for where in sorted({_place(m) for m in absent if _place(m) in begun or targeted(m)}):
        yield Finding(
            "experts", where, "has not a pair for each projection of each", "Save it whole again."
        )


def is_expert(module: str) -> bool:
    """Say whether a path is that of a projection of one single expert."""
    return _SINGLE.fullmatch(module) is not None


def _problem(config: Mapping[str, Any], scales: Scales, base: Base, module: str) -> str:
    if _rewrites(base) and _DENSE.fullmatch(module):
        return "LoRA on a dense layer, which PEFT takes for the experts' and leaves out"
    if not _MIXED.fullmatch(module):
        return ""
    if base.proven and module in base.sizes:
        return "" if _scaled_alike(config, scales, module) else _SCALED
    if _ROUTER.fullmatch(module):
        return "LoRA on a router, which vLLM is not known to take as PEFT does on this base"
    if not is_expert(module):
        return "one pair for all experts, as PEFT saves since transformers 5; vLLM takes one each"
    if base.config is None:
        return "LoRA on experts is not checked without the base's config.json"
    if _rewrites(base):
        return ""  # no such layer, expert or projection: `projections.problem` says so
    return "LoRA on experts, which vLLM is not known to take as PEFT does on this base"


def _place(module: str) -> str:
    """Return the path of the experts that a single one belongs to."""
    return _INDEX.split(module)[0] + ".experts"


_SCALED = "rank_pattern, alpha_pattern or use_rslora mean another scale here to PEFT than to vLLM"


def _scaled_alike(config: Mapping[str, Any], scales: Scales, module: str) -> bool:
    """Say whether a projection's rank and scale are those of the parameter that PEFT gives it to.

    PEFT joins gate and up at twice the default rank and alpha, which is another scale in rsLoRA.
    """
    head, _, name = _INDEX.sub(".experts.", _as_now(module)).rpartition(".")
    parameter = f"{head}.{_PARAMETERS[name]}"
    here = scales.rank(module), scales.alpha(module)
    if here != (scales.rank(parameter), scales.alpha(parameter)):
        return False
    joined = name in ("gate_proj", "up_proj", "w1", "w3")
    return not joined or (
        here == (config.get("r"), config.get("lora_alpha")) and not config.get("use_rslora")
    )


def _rewrites(base: Base) -> bool:
    return base.config is not None and base.config.get("model_type") in FUSED


def _as_now(module: str) -> str:
    """Return a path as transformers 5 has it."""
    return module.replace(".block_sparse_moe.", ".mlp.")


def _last(path: str) -> str:
    return path.rpartition(".")[2]
