"""What vLLM would refuse about an adapter or, worse, serve as the base's answers.

Runs before every publication and again before a server loads. Reads the configuration and the
weights' header, then the weights one tensor at a time. Does not import torch, peft or vllm: the
rules are those of vLLM 0.32's `PEFTHelper` and LoRA loader plus what these let through wrongly.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from adapters.errors import InvalidAdapter, Rejected
from adapters.files import CONFIG_FILE, WEIGHTS_FILE
from adapters.projections import problem
from adapters.weights import Tensor, read_header, scan

RANK_CLASSES = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `max_lora_rank` (`vllm.config.lora.MaxLoRARanks`)."""

_CONFIG_LIMIT_BYTES = 64 << 10
_KEY = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_"
    r"(?:(?P<side>[AB])\.weight|embedding_(?P<embedding_side>[AB]))"
)
_PLAIN_PATTERN = re.compile(r"[A-Za-z0-9_.]+")

# Fields that make plain B·A·x·scale the wrong answer, and what they mean.
_REFUSED_FIELDS = {
    "use_dora": "DoRA's magnitude",
    "modules_to_save": "whole modules saved beside the adapter",
    "trainable_token_indices": "trained tokens",
    "layer_replication": "replicated layers",
    "lora_bias": "a LoRA bias",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "corda_config": "CorDA's changed base",
    "lora_ga_config": "LoRA-GA's changed base",
    "loftq_config": "LoftQ's changed base",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "target_parameters": "LoRA on bare parameters",
}
# Fields that say how it was trained, or nothing to a server.
# fmt: off
_PLAIN_FIELDS = frozenset({
    "peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern",
    "alpha_pattern", "bias", "init_lora_weights", "task_type", "auto_mapping", "peft_version",
    "base_model_name_or_path", "revision", "inference_mode", "exclude_modules", "lora_dropout",
    "fan_in_fan_out", "layers_to_transform", "layers_pattern", "megatron_config",
    "megatron_core", "eva_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
})
# fmt: on
_PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to serve an adapter."""

    check: str
    where: str
    """A field of adapter_config.json or a tensor's name."""
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Report:
    """What lint found; empty findings mean servable as far as these checks see."""

    peft: Mapping[str, Any]
    """r (the largest rank), lora_alpha, target_modules, use_rslora, num_parameters, dtype."""
    modules: tuple[str, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest keeps of this report."""
        return {
            "passed": not self.findings,
            "modules": len(self.modules),
            "findings": [asdict(finding) for finding in self.findings],
        }


def read_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json.

    Raises:
        InvalidAdapter: too large, not a JSON object, or holding NaN or Infinity.
    """
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > _CONFIG_LIMIT_BYTES:
            raise ValueError(f"larger than {_CONFIG_LIMIT_BYTES} bytes")
        return _read_object(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidAdapter(
            f"{path} cannot be read: {error}.", fix="Write it with save_pretrained() again."
        ) from error


def read_base_config(base: Path) -> dict[str, Any]:
    """Return config.json of a base's folder, for `check_adapter`.

    Raises:
        Rejected: not there, or not a JSON object.
    """
    path = base / "config.json"
    try:
        return _read_object(path)
    except (OSError, ValueError, RecursionError) as error:
        raise Rejected(
            f"{path} cannot be read: {error}.", fix="Name the folder of a whole base."
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    def refuse_constant(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a number JSON has")

    content = json.loads(path.read_text("utf-8"), parse_constant=refuse_constant)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def check_adapter(folder: Path, base_config: Mapping[str, Any] | None = None) -> Report:
    """Check an adapter folder whose files are already known to be plain files.

    `base_config`: the base's config.json, where it is known; module paths and sizes are then
    checked against it too.

    Raises:
        InvalidAdapter: so broken that there is nothing to check (see `read_config`,
            `adapters.weights.read_header`).
    """
    config = read_config(folder)
    tensors = read_header(folder / WEIGHTS_FILE)
    findings = list(_check_config(config))
    if not findings:  # what tensors should be is what a sound configuration says
        findings += _check_tensors(config, tensors, base_config)
    if not findings:
        findings += _check_values(folder / WEIGHTS_FILE, tensors)
    ranks = [t.shape[0] for name, t in tensors.items() if "lora_A" in name and len(t.shape) == 2]
    peft = {
        "r": max(ranks, default=config.get("r")),
        "lora_alpha": config.get("lora_alpha"),
        "use_rslora": bool(config.get("use_rslora")),
        "target_modules": config.get("target_modules"),
        "num_parameters": sum(math.prod(t.shape) for t in tensors.values()),
        "dtype": ", ".join(sorted({t.dtype for t in tensors.values()})),
    }
    modules = {found["module"] for key in tensors if (found := _KEY.fullmatch(key))}
    return Report(peft, tuple(sorted(modules)), tuple(findings))


def _check_config(config: Mapping[str, Any]) -> Iterator[Finding]:
    if config.get("peft_type") != "LORA":
        yield Finding(
            "type",
            "peft_type",
            f"{config.get('peft_type')!r} is not LORA, the only type vLLM serves",
            "Train with a LoraConfig.",
        )
    r, alpha = config.get("r"), config.get("lora_alpha")
    if not _is_rank(r):
        yield Finding("rank", "r", f"{r!r} is not a rank of 1 to 512", "Train with r ≤ 512.")
    if not _is_scale(alpha):
        yield Finding("scale", "lora_alpha", f"{alpha!r} is not a scale", "Use e.g. 2 × r.")
    if not config.get("target_modules"):
        yield Finding("field", "target_modules", "vLLM wants them named", "Save with PEFT.")
    yield from _check_patterns(config)
    if config.get("bias", "none") != "none":
        yield Finding("field", "bias", "vLLM refuses trained biases", "Train with bias='none'.")
    for name, meaning in _REFUSED_FIELDS.items():
        if config.get(name):
            yield Finding("field", name, f"vLLM does not serve {meaning}", f"Train without {name}.")
    for name in sorted(config.keys() - _REFUSED_FIELDS.keys() - _PLAIN_FIELDS):
        if config[name]:
            yield Finding("field", name[:80], "not a field that is known here", "Train without it.")
    if config.get("init_lora_weights", True) not in _PLAIN_INITIALISATIONS:
        yield Finding(
            "field",
            "init_lora_weights",
            f"{config['init_lora_weights']!r} changes the base's own weights",
            "Convert on saving: save_pretrained(path_initial_model_for_weight_conversion=…).",
        )


def _check_patterns(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Check per-module ranks and scales; vLLM runs their keys as regular expressions."""
    for field, sound in (("rank_pattern", _is_rank), ("alpha_pattern", _is_scale)):
        pattern = config.get(field) or {}
        if not isinstance(pattern, dict):
            yield Finding("field", field, "not a mapping of module to number", "Save with PEFT.")
            continue
        for key, value in pattern.items():
            if not _PLAIN_PATTERN.fullmatch(key):
                yield Finding(
                    "field", field, f"{key[:80]!r} is a regular expression", "Name modules plainly."
                )
            elif not sound(value):
                yield Finding("field", field, f"{key[:80]} has {value!r}", "Give each a number.")


def _check_tensors(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    base_config: Mapping[str, Any] | None,
) -> Iterator[Finding]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = _KEY.fullmatch(key)
        if not found:
            yield Finding(
                "key",
                key,
                "not a LoRA tensor's name; vLLM would drop it",
                "Save with PEFT and save_embedding_layers=False.",
            )
        elif tensor.dtype not in ("F32", "F16", "BF16"):
            yield Finding("type", key, f"{tensor.dtype} is not served", "Save as float.")
        else:
            side = found["side"] or found["embedding_side"]
            sides.setdefault(found["module"], {})[side] = tensor
    if not tensors:
        yield Finding("key", WEIGHTS_FILE, "holds no tensor", "Save the trained adapter.")
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            yield Finding("pair", module, "has only one of lora_A and lora_B", "Save it again.")
            continue
        a, b = pair["A"].shape, pair["B"].shape
        rank = _rank_of(module, config)
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            yield Finding("shape", module, f"A {a} and B {b} do not multiply", "Save it again.")
        elif a[0] != rank:
            yield Finding(
                "shape", module, f"rank {a[0]} where r says {rank}", "Correct r or rank_pattern."
            )
        elif base_config and (said := problem(base_config, module, a[1], b[0])):
            yield Finding("base", module, said, "Train on this base, or name the right one.")


def _rank_of(module: str, config: Mapping[str, Any]) -> object:
    """Return what rank PEFT and vLLM expect of a module: the first pattern it ends with, or r."""
    for key, rank in (config.get("rank_pattern") or {}).items():
        if module == key or module.endswith(f".{key}"):
            return rank
    return config.get("r")


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and value is not True and 1 <= value <= RANK_CLASSES[-1]


def _is_scale(value: object) -> bool:
    return isinstance(value, int | float) and value is not True and 0 < value < 1e6


def _check_values(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    moved: dict[str, int] = {}
    for name, finite, non_zero in scan(path, tensors):
        if not finite:
            yield Finding(
                "value", name, "holds NaN or infinity; it would spoil other requests", "Retrain."
            )
        if non_zero and (found := _KEY.fullmatch(name)):
            moved[found["module"]] = moved.get(found["module"], 0) + 1
    if 2 not in moved.values():
        yield Finding(
            "value", WEIGHTS_FILE, "every B·A is zero: it answers as the base", "Train it."
        )
