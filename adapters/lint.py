"""What vLLM would refuse about an adapter or, worse, serve as the base's answers.

Runs before every publication. Reads the configuration and the weights' header, then the
weights one tensor at a time. Does not import torch, peft or vllm: the rules are those of
vLLM 0.32's `PEFTHelper` and LoRA loader plus what these let through wrongly.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from adapters.errors import InvalidAdapter
from adapters.files import CONFIG_FILE, WEIGHTS_FILE
from adapters.weights import Tensor, read_header, scan

RANK_CLASSES = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `max_lora_rank` (`vllm.config.lora.MaxLoRARanks`)."""

_CONFIG_LIMIT_BYTES = 64 << 10
_KEY = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>A|B|embedding_A|embedding_B)"
    r"(?:\.weight)?"
)

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
    "eva_config": "",  # an initialisation only: harmless once trained
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "target_parameters": "LoRA on bare parameters",
    "auto_mapping": "",
}
_PLAIN_INITIALISATIONS = {True, False, "gaussian", "orthogonal", "eva", "mica", None}


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

    def refuse_constant(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a number JSON has")

    try:
        if path.stat().st_size > _CONFIG_LIMIT_BYTES:
            raise ValueError(f"larger than {_CONFIG_LIMIT_BYTES} bytes")
        content = json.loads(path.read_text("utf-8"), parse_constant=refuse_constant)
        if not isinstance(content, dict):
            raise TypeError("not a JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InvalidAdapter(
            f"{path} cannot be read: {error}.", fix="Write it with save_pretrained() again."
        ) from error
    return content


def check_adapter(folder: Path) -> Report:
    """Check an adapter folder whose files are already known to be plain files.

    Raises:
        InvalidAdapter: so broken that there is nothing to check (see `read_config`,
            `adapters.weights.read_header`).
    """
    config = read_config(folder)
    tensors = read_header(folder / WEIGHTS_FILE)
    findings = [*_check_config(config), *_check_tensors(config, tensors)]
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
    if not isinstance(r, int) or isinstance(r, bool) or not 1 <= r <= RANK_CLASSES[-1]:
        yield Finding("rank", "r", f"{r!r} is not a rank of 1 to 512", "Train with r ≤ 512.")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 1e6:
        yield Finding("scale", "lora_alpha", f"{alpha!r} is not a scale", "Use e.g. 2 × r.")
    if config.get("bias", "none") != "none":
        yield Finding("field", "bias", "vLLM refuses trained biases", "Train with bias='none'.")
    for name, meaning in _REFUSED_FIELDS.items():
        if meaning and config.get(name):
            yield Finding("field", name, f"vLLM does not serve {meaning}", f"Train without {name}.")
    if config.get("init_lora_weights", True) not in _PLAIN_INITIALISATIONS:
        yield Finding(
            "field",
            "init_lora_weights",
            f"{config['init_lora_weights']!r} changes the base's own weights",
            "Convert on saving: save_pretrained(path_initial_model_for_weight_conversion=…).",
        )


def _check_tensors(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = _KEY.fullmatch(key)
        if not found:
            yield Finding(
                "key", key, "not a LoRA tensor's name; vLLM would drop it", "Save with PEFT."
            )
        elif tensor.dtype not in ("F32", "F16", "BF16"):
            yield Finding("type", key, f"{tensor.dtype} is not served", "Save as float.")
        else:
            sides.setdefault(found["module"], {})[found["side"][-1]] = tensor
    if not tensors:
        yield Finding("key", WEIGHTS_FILE, "holds no tensor", "Save the trained adapter.")
    patterns = config.get("rank_pattern") or {}
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            yield Finding("pair", module, "has only one of lora_A and lora_B", "Save it again.")
            continue
        a, b = pair["A"].shape, pair["B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            yield Finding("shape", module, f"A {a} and B {b} do not multiply", "Save it again.")
        elif not patterns and a[0] != config.get("r"):
            yield Finding(
                "shape", module, f"rank {a[0]} where r says {config.get('r')}", "Correct r."
            )


def _check_values(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    effective = False
    for name, finite, non_zero in scan(path, tensors):
        if not finite:
            yield Finding(
                "value", name, "holds NaN or infinity; it would spoil other requests", "Retrain."
            )
        effective |= non_zero and ("lora_B" in name or "lora_embedding_B" in name)
    if not effective:
        yield Finding("value", WEIGHTS_FILE, "every B is zero: answers as the base", "Train it.")
