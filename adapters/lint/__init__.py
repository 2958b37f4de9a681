"""What vLLM would refuse about an adapter or, worse, serve as the base's answers.

Runs before every publication and again before a server loads. Reads the configuration and the
weights' header, then the weights a few megabytes at a time. Does not import torch, peft or vllm:
the rules are those of vLLM 0.32's `PEFTHelper` and LoRA loader plus what these let through
wrongly; `tests/e2e/test_lint_matrix.py` holds them against the real engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.errors import InvalidAdapter
from adapters.files import WEIGHTS_FILE, is_prompt_only, version_files
from adapters.lint.base import Base, check_known
from adapters.lint.canary import check_canary
from adapters.lint.classifier import HEAD_KEY, check_head, is_classifier
from adapters.lint.config import MODULE_FIELDS, check_config, read_base_config, read_config
from adapters.lint.copies import check_copies
from adapters.lint.experts import targets
from adapters.lint.expressions import Clock
from adapters.lint.findings import RANK_CLASSES, WARNINGS, Finding, Report, rank_class
from adapters.lint.identity import check_identity, check_tokenizer
from adapters.lint.scales import Scales
from adapters.lint.serving import check_prompt, check_serving
from adapters.lint.tensors import check_tensors, check_values, parts_of
from adapters.weights import read_header

__all__ = [
    "RANK_CLASSES",
    "Finding",
    "Report",
    "Scales",
    "check_adapter",
    "check_folder",
    "parts_of",
    "rank_class",
    "read_base_config",
    "read_config",
]


def check_folder(
    folder: Path, base_config: Mapping[str, Any] | None = None, **known: Any
) -> Report:
    """Check a folder that nothing is known of; what cannot be read at all is a finding too.

    `known`: as `check_adapter`. Follows no link, opens no pickle, waits for no pipe.
    """
    try:
        version_files(folder)
        return check_adapter(folder, base_config, **known)
    except InvalidAdapter as error:
        return Report({}, (), (Finding("file", folder.name, error.message, error.fix),))


def check_adapter(
    folder: Path,
    base_config: Mapping[str, Any] | None = None,
    *,
    base_id: str = "",
    base_path: Path | None = None,
    values: bool = True,
) -> Report:
    """Check a version's folder whose files are already known to be plain files.

    One without weights (`adapters.files.is_prompt_only`) is held against no base.
    `base_config`: the base's config.json, where it is known; module paths and sizes are then
    checked against it too. `base_id`: the base's Hub id or path, held against the one that the
    adapter names. `base_path`: the base's folder, whose tokenizer is compared.
    `values=False` leaves out the weights themselves: the cheap part, one read of two headers.

    Raises:
        InvalidAdapter: so broken that there is nothing to check (see `read_config`,
            `adapters.weights.read_header`).
    """
    if is_prompt_only([entry.name for entry in folder.iterdir()]):
        return check_prompt(folder)
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    tensors = read_header(weights)
    base, unfit = Base(base_config, base_path), set[str]()
    said = [*check_config(config), *check_identity(config, base_id, base_path), *check_known(base)]
    if config.get("peft_type") == "LORA" and MODULE_FIELDS.isdisjoint(f.where for f in said):
        clock = Clock()
        if not base.tied:
            config = {**config, "ensure_weight_tying": False}
        targeted, scales = targets(config, base, clock), Scales(config, clock)
        pairs = tensors
        if is_classifier(config):
            said += check_head(tensors, base_config)
            pairs = {name: tensor for name, tensor in tensors.items() if name != HEAD_KEY}
        unfit, found = check_tensors(config, pairs, targeted, scales, base)
        said += found
        if values:
            said += check_values(weights, tensors, scales, base_config)
            said += check_copies(weights, tensors, base)
    said += check_tokenizer(folder, base_path) if base_path else ()
    said += check_serving(folder)
    said += check_canary(folder)
    parts = {name: pair for name in tensors if (pair := parts_of(name))}
    modules = {module for module, _ in parts.values()}
    ranks = [tensors[n].shape[0] for n, (_, side) in parts.items() if side == "A"]
    peft = {
        "r": max(ranks, default=config.get("r")),
        "lora_alpha": config.get("lora_alpha"),
        "use_rslora": bool(config.get("use_rslora")),
        "target_modules": config.get("target_modules"),
        "task_type": config.get("task_type"),
        "num_parameters": sum(math.prod(tensors[name].shape) for name in parts),
        "dtype": ", ".join(sorted({tensors[name].dtype for name in parts})),
    }
    matched = len(modules - unfit) if base.sizes else None
    findings = tuple(finding for finding in said if finding.check not in WARNINGS)
    warnings = tuple(finding for finding in said if finding.check in WARNINGS)
    return Report(peft, tuple(sorted(modules)), findings, warnings, matched)
