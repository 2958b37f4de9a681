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
from adapters.lint.config import check_config, read_base_config, read_config
from adapters.lint.findings import RANK_CLASSES, Finding, Report, rank_class
from adapters.lint.identity import check_identity, check_tokenizer
from adapters.lint.tensors import check_tensors, check_values, module_of
from adapters.projections import knows
from adapters.weights import read_header

__all__ = [
    "RANK_CLASSES",
    "Finding",
    "Report",
    "check_adapter",
    "check_folder",
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
    unfit: set[str] = set()
    if config.get("peft_type") == "LORA":
        unfit, said = check_tensors(config, tensors, base_config)
        findings += said
    if values:
        findings += check_values(folder / WEIGHTS_FILE, tensors, config, base_config)
    warnings = list(check_tokenizer(folder, base_path)) if base_path else []
    known = base_config is not None and knows(base_config)
    if base_config is not None and not known:
        warnings.append(
            Finding(
                "unchecked",
                "model_type",
                f"the modules of a {base_config.get('model_type')!r} base are not known here",
                "Compare its answers with the base's before you promote it.",
            )
        )
    modules = {module for key in tensors if (module := module_of(key))}
    ranks = [t.shape[0] for name, t in tensors.items() if "lora_A" in name and len(t.shape) == 2]
    peft = {
        "r": max(ranks, default=config.get("r")),
        "lora_alpha": config.get("lora_alpha"),
        "use_rslora": bool(config.get("use_rslora")),
        "target_modules": config.get("target_modules"),
        "num_parameters": sum(math.prod(t.shape) for t in tensors.values()),
        "dtype": ", ".join(sorted({t.dtype for t in tensors.values()})),
    }
    matched = len(modules - unfit) if known else None
    return Report(peft, tuple(sorted(modules)), tuple(findings), tuple(warnings), matched)
