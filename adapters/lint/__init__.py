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
from adapters.files import WEIGHTS_FILE, version_files
from adapters.lint.base import Base
from adapters.lint.config import MODULE_FIELDS, check_config, read_base_config, read_config
from adapters.lint.expressions import Clock
from adapters.lint.findings import RANK_CLASSES, Finding, Report, rank_class
from adapters.lint.identity import check_identity, check_tokenizer
from adapters.lint.scales import Scales
from adapters.lint.targets import Targets
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
    """Check an adapter folder whose files are already known to be plain files.

    `base_config`: the base's config.json, where it is known; module paths and sizes are then
    checked against it too. `base_id`: the base's Hub id or path, held against the one that the
    adapter names. `base_path`: the base's folder, whose tokenizer is compared.
    `values=False` leaves out the weights themselves: the cheap part, one read of two headers.

    Raises:
        InvalidAdapter: so broken that there is nothing to check (see `read_config`,
            `adapters.weights.read_header`).
    """
    config = read_config(folder)
    tensors = read_header(folder / WEIGHTS_FILE)
    findings = [*check_config(config), *check_identity(config, base_id)]
    base, unfit = Base(base_config, base_path), set[str]()
    sound = MODULE_FIELDS.isdisjoint(found.where for found in findings)
    if config.get("peft_type") == "LORA" and sound:
        clock = Clock()
        targeted, scales = Targets(config, clock), Scales(config, clock)
        unfit, said = check_tensors(tensors, targeted, scales, base)
        findings += said
        if values:
            findings += check_values(folder / WEIGHTS_FILE, tensors, scales, base_config)
    warnings = list(check_tokenizer(folder, base_path)) if base_path else []
    if base_config is not None and not base.proven:
        what = "which of its modules vLLM serves LoRA on" if base.sizes else "its modules"
        warnings.append(
            Finding(
                "unchecked",
                "model_type",
                f"{base_config.get('model_type')!r}: not known here: {what}",
                "Compare its answers with the base's before you promote it.",
            )
        )
    modules = {parts[0] for key in tensors if (parts := parts_of(key))}
    ranks = [t.shape[0] for name, t in tensors.items() if "lora_A" in name and len(t.shape) == 2]
    peft = {
        "r": max(ranks, default=config.get("r")),
        "lora_alpha": config.get("lora_alpha"),
        "use_rslora": bool(config.get("use_rslora")),
        "target_modules": config.get("target_modules"),
        "num_parameters": sum(math.prod(t.shape) for t in tensors.values()),
        "dtype": ", ".join(sorted({t.dtype for t in tensors.values()})),
    }
    matched = len(modules - unfit) if base.sizes else None
    return Report(peft, tuple(sorted(modules)), tuple(findings), tuple(warnings), matched)
