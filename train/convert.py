"""What vLLM cannot serve, turned into a plain LoRA that it can, with the error that this costs.

Two ways, and no other. Tensors under another prefix are renamed: exact. Anything else is loaded
by PEFT and merged into its base, and ΔW = merged − base of each projection is cut to a rank by
SVD: this is the true ΔW of DoRA, magnitude included (PEFT's own converter leaves that out), of
PiSSA and OLoRA, whose changed base PEFT computes again (from the base as it is: if theirs was
quantised in training, the difference stays), and of VeRA, LoHa, LoKr and the like.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from adapters.errors import Rejected
from adapters.files import CONFIG_FILE, WEIGHTS_FILE, version_files
from adapters.lint import RANK_CLASSES, Report, check_folder, read_base_config, read_config
from adapters.projections import every, knows

EXACT = 1e-4
"""Relative error of ΔW up to which a rank is enough; float32 merging costs about 1e-6."""
LARGEST_RANK = 64
_MERGEABLE_TYPES = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "MISS", "OFT", "VERA")
_MERGEABLE_FIELDS = {"use_dora", "init_lora_weights"}
_MERGEABLE_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "pissa", "olora")
_KEY = re.compile(
    r"(?:.*\.)?(?P<module>layers\.[0-9]{1,6}\.[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])"
    r"(?:\.default)?\.weight"
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was done."""

    how: str
    error: float
    """‖ΔW − what is served of it‖ / ‖ΔW‖ over all modules (Frobenius); 0.0 where none is lost."""
    report: Report
    """Lint of the result; without findings."""

    def as_json(self) -> dict[str, Any]:
        """Return it as `adapters lint --fix --json` prints it."""
        found = self.report.as_json()
        servable = found.pop("passed")
        return {
            "how": self.how,
            "relative_error": self.error,
            "servable": servable,
            **found,
        }


def convert(folder: Path, out: Path, base: Path, *, rank: int | None = None) -> Conversion:
    """Write a servable copy of an adapter folder to `out`, which must not exist. All or nothing.

    `base`: the folder of the base it was trained on. `rank`: to cut ΔW to; None takes the
    smallest of vLLM's classes that is exact, or else 64.

    Raises:
        InvalidAdapter: not an adapter's folder.
        Rejected: `out` exists, there is nothing to convert, or it cannot be.
    """
    if out.exists():
        raise Rejected(f"{out} exists.", fix="Name a folder that does not: --out DIR")
    version_files(folder)
    base_config = read_base_config(base)
    if not knows(base_config):
        raise Rejected(
            f"The modules of a {base_config.get('model_type')!r} base are not known here.",
            fix="Convert it with PEFT.",
        )
    report = check_folder(folder, base_config)
    if not report.findings:
        raise Rejected(f"{folder} is servable as it is.", fix="Leave out --fix.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".converting-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if _only_prefixes(report):
            how, error = "tensors renamed", 0.0
            _rename(folder, made, base_config)
        else:
            _check_mergeable(folder, report)
            how, error = _from_merged(folder, made, base, base_config, rank)
        checked = check_folder(made, base_config)
        if checked.findings:
            found = checked.findings[0]
            raise Rejected(
                f"{folder} cannot be converted: {found.where}: {found.message}.", fix=found.fix
            )
        made.rename(out)
    return Conversion(how, error, checked)


def _only_prefixes(report: Report) -> bool:
    return {f.check for f in report.findings} <= {"key", "base", "missing", "target"}


def _rename(folder: Path, made: Path, base_config: Mapping[str, Any]) -> None:
    """Give each tensor the name that PEFT gives it on this base."""
    known = set(every(base_config))
    renamed = {}
    for name, value in load_file(folder / WEIGHTS_FILE).items():
        found = _KEY.fullmatch(name)
        module = f"model.{found['module']}" if found else ""
        key = f"base_model.model.{module}.lora_{found['side']}.weight" if found else ""
        if module not in known or key in renamed:
            raise Rejected(
                f"{name} is no tensor of this base under another name.",
                fix="Train on this base, or name the right one.",
            )
        renamed[key] = value
    _save(made, read_config(folder), renamed)


def _check_mergeable(folder: Path, report: Report) -> None:
    """Refuse what PEFT would not merge into what was trained, or would run a stranger's code for.

    PEFT imports the module that `megatron_core` names.
    """
    config = read_config(folder)
    if config.get("peft_type") not in _MERGEABLE_TYPES or config.get("megatron_config"):
        raise Rejected(
            f"{str(config.get('peft_type'))[:40]} adapters of this kind are not converted.",
            fix=f"Only {', '.join(_MERGEABLE_TYPES)} are; train a LoRA.",
        )
    if config.get("init_lora_weights", True) not in _MERGEABLE_INITIALISATIONS:
        raise Rejected(
            f"{config['init_lora_weights']!r} changed the base by what is not in the folder.",
            fix="Convert on saving: save_pretrained(path_initial_model_for_weight_conversion=…).",
        )
    for finding in report.findings if config["peft_type"] == "LORA" else ():
        magnitude = finding.check == "key" and ".lora_magnitude_vector" in finding.where
        if finding.where not in _MERGEABLE_FIELDS and not magnitude:
            raise Rejected(
                f"{folder} cannot be converted: {finding.where}: {finding.message}.",
                fix=finding.fix,
            )


def _from_merged(
    folder: Path, made: Path, base: Path, base_config: Mapping[str, Any], rank: int | None
) -> tuple[str, float]:
    """Write the merged ΔW as LoRA; return what was done and the relative error."""
    deltas = _deltas(folder, base, set(every(base_config)))
    parts = {name: torch.linalg.svd(delta, full_matrices=False) for name, delta in deltas.items()}
    chosen = rank or next((r for r in RANK_CLASSES if _error(parts, r) <= EXACT), LARGEST_RANK)
    chosen = min(chosen, rank or LARGEST_RANK)
    tensors, ranks = {}, {}
    for name, (u, s, v) in parts.items():
        kept = ranks[name] = min(chosen, len(s))
        root = s[:kept].sqrt()
        key = f"base_model.model.{name}.lora_"
        tensors[f"{key}A.weight"] = (root[:, None] * v[:kept]).contiguous()
        tensors[f"{key}B.weight"] = (u[:, :kept] * root).contiguous()
    smaller = {name: kept for name, kept in ranks.items() if kept != chosen}
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": read_config(folder).get("base_model_name_or_path"),
        "r": chosen,
        "lora_alpha": chosen,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "target_modules": sorted(parts),
        "bias": "none",
        "inference_mode": True,
    }
    _save(made, plain, tensors)
    return f"true ΔW cut to rank {chosen}", _error(parts, chosen)


def _deltas(folder: Path, base: Path, known: set[str]) -> dict[str, Tensor]:
    """Return ΔW (out, in) of each changed projection.

    Raises:
        Rejected: PEFT cannot merge it, or it changes what LoRA does not.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
        after = merged.state_dict()
    except Exception as error:  # PEFT raises whatever its many methods do
        said = (str(error).splitlines() or [""])[0]
        raise Rejected(
            f"PEFT cannot merge {folder}: {type(error).__name__}: {said}", fix="Train a LoRA."
        ) from error
    if after.keys() != before.keys():
        raise Rejected(f"{folder} changes the base's layout.", fix="Train a LoRA.")
    changed = {n: after[n] - before[n] for n in before if not torch.equal(after[n], before[n])}
    strange = [name for name in changed if name.removesuffix(".weight") not in known]
    strange += [name for name in changed if not name.startswith("model.layers.")]
    if strange or not changed:
        what = strange[0] if strange else "nothing"
        raise Rejected(
            f"{folder} changes {what}, which is not converted.", fix="Train a LoRA on projections."
        )
    return {name.removesuffix(".weight"): delta for name, delta in changed.items()}


def _error(parts: Mapping[str, tuple[Tensor, Tensor, Tensor]], rank: int) -> float:
    """Return what is lost of all ΔW together at a rank, from the singular values."""
    whole = sum(float(s.square().sum()) for _, s, _ in parts.values())
    lost = sum(float(s[rank:].square().sum()) for _, s, _ in parts.values())
    return (lost / whole) ** 0.5 if whole else 0.0


def _save(made: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    (made / CONFIG_FILE).write_text(json.dumps(config, indent=2))
    save_file(dict(tensors), made / WEIGHTS_FILE, metadata={"format": "pt"})
