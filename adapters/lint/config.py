"""adapter_config.json: how it is read, and which of its fields vLLM cannot serve."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.errors import InvalidAdapter, Rejected
from adapters.files import CONFIG_FILE
from adapters.lint.classifier import is_classifier
from adapters.lint.expressions import problem
from adapters.lint.findings import RANK_CLASSES, Finding
from adapters.lint.targets import check_targets
from adapters.weights import refuse_constant, unique

MODULE_FIELDS = frozenset({
    "target_modules", "target_parameters", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern",
})  # fmt: skip
"""Those that say which modules are meant; tensors are checked against them once they are sound."""
_CONFIG_LIMIT_BYTES = 64 << 10

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
}
# Fields that say how it was trained, or nothing to a server.
# fmt: off
_PLAIN_FIELDS = frozenset({
    "peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern",
    "alpha_pattern", "bias", "init_lora_weights", "task_type", "auto_mapping", "peft_version",
    "base_model_name_or_path", "revision", "inference_mode", "exclude_modules", "lora_dropout",
    "fan_in_fan_out", "layers_to_transform", "layers_pattern", "megatron_config",
    "megatron_core", "eva_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    "target_parameters",
})
# fmt: on
_PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


def read_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json.

    Raises:
        InvalidAdapter: too large, not a JSON object, or holding NaN or Infinity.
    """
    path = folder / CONFIG_FILE
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a plain file")  # a pipe would keep us waiting
        if status.st_size > _CONFIG_LIMIT_BYTES:
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
    content = json.loads(
        path.read_text("utf-8"), parse_constant=refuse_constant, object_pairs_hook=unique
    )
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def check_config(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Find the fields that make plain B·A·x·scale the wrong answer."""
    if config.get("peft_type") != "LORA":
        yield Finding(
            "type",
            "peft_type",
            f"{config.get('peft_type')!r} is not LORA, the only type vLLM serves",
            "Train with a LoraConfig.",
        )
        return  # the other rules are LoRA's
    r, alpha = config.get("r"), config.get("lora_alpha")
    if not is_rank(r):
        yield Finding("rank", "r", f"{r!r} is not a rank of 1 to 512", "Train with r ≤ 512.")
    if not is_scale(alpha):
        yield Finding("scale", "lora_alpha", f"{alpha!r} is not a scale", "Use e.g. 2 × r.")
    yield from check_targets(config)
    yield from _check_patterns(config)
    if config.get("bias", "none") != "none":
        yield Finding("field", "bias", "vLLM refuses trained biases", "Train with bias='none'.")
    for name, meaning in _REFUSED_FIELDS.items():
        if name == "modules_to_save" and is_classifier(config):
            continue
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
    """Check per-module ranks and scales; their keys are regular expressions."""
    for field, sound in (("rank_pattern", is_rank), ("alpha_pattern", is_scale)):
        pattern = config.get(field) or {}
        if not isinstance(pattern, dict):
            yield Finding("field", field, "not a mapping of module to number", "Save with PEFT.")
            continue
        for key, value in pattern.items():
            if said := problem(rf"(.*\.)?({key})$"):
                yield Finding("pattern", field, f"{key[:80]!r}: {said}", "Name modules plainly.")
            elif not sound(value):
                yield Finding("field", field, f"{key[:80]} has {value!r}", "Give each a number.")


def is_rank(value: object) -> bool:
    """Say whether vLLM could serve this rank."""
    return isinstance(value, int) and value is not True and 1 <= value <= RANK_CLASSES[-1]


def is_scale(value: object) -> bool:
    """Say whether this could be a lora_alpha."""
    return isinstance(value, int | float) and value is not True and 0 < value < 1e6
