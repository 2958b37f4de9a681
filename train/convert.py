"""What vLLM cannot serve, turned into a plain LoRA that it can, with the error that this costs.

Three ways, each all or nothing:

- Tensors under another prefix are renamed, and what only training used is left out (VeLoRA's
  projections, MonteCLoRA's samplers; neither takes part once training ends): exact.
- An adapter that began by changing its base becomes its difference from its initial weights
  (`train.initial`): exact to float32.
- Anything else is merged by PEFT, and the true ΔW of each projection (`train.merged`) is cut to a
  rank (`train.lowrank`): the error is measured.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from adapters.deltas import distance, norm, read_deltas
from adapters.errors import Rejected, UsageError
from adapters.files import CONFIG_FILE, WEIGHTS_FILE, version_files
from adapters.lint import RANK_CLASSES, Report, check_folder, read_base_config, read_config
from adapters.projections import every, knows
from train import initial as initial_weights
from train import merged
from train.lowrank import cut_matrix, write

EXACT = 1e-4
"""Relative error of ΔW up to which a rank is enough; float32 merging costs about 1e-6."""
LARGEST_RANK = 64
"""Up to which a rank is chosen; a larger one takes its room in every slot of a server."""
_TRAINING_ONLY = {"velora_config": "velora_embed", "monteclora_config": "monteclora_sampler"}
"""Fields that only training heeds, and the tensors that it leaves behind: `….lora_NAME…`."""
_INITIAL_FIELDS = {"init_lora_weights", "corda_config", "lora_ga_config", *_TRAINING_ONLY}
_MERGED_FIELDS = {*merged.FIELDS, *_TRAINING_ONLY}
_HELD_BY_PEFT = {"key", "missing", "base", "shape", "target"}
"""Findings about the tensors, all of which PEFT must know before it merges."""
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


def convert(
    folder: Path, out: Path, base: Path, *, initial: Path | None = None, rank: int | None = None
) -> Conversion:
    """Write a servable copy of an adapter folder to `out`, which must not exist. All or nothing.

    `base`: the folder of the base it is to be served on. `initial`: the adapter as it was before
    training, where that changed the base; None looks for it beside the folder. `rank`: to cut ΔW
    to; None takes the smallest of vLLM's classes that is exact, or else 64; of a difference from
    initial weights, all of it. Tokenizer, chat template and model card go along.

    Raises:
        InvalidAdapter: not an adapter's folder.
        UsageError: a rank for what is not cut.
        Rejected: `out` exists, there is nothing to convert, or it cannot be.
    """
    if out.exists():
        raise Rejected(f"{out} exists.", fix="Name a folder that does not: --out DIR")
    names = version_files(folder)
    base_config, config = read_base_config(base), read_config(folder)
    report = check_folder(folder, base_config)
    if not report.findings and initial is None:
        raise Rejected(f"{folder} is servable as it is.", fix="Leave out --fix.")
    initial = initial or initial_weights.find(folder, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".converting-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if initial:
            _check_initial(folder, report)
            how, error = _from_initial(folder, made, initial, rank)
        elif _only_names(report):
            if rank:
                raise UsageError("--rank is for what is cut; this is not.", fix="Leave it out.")
            how, error = _plainly(folder, made, base_config), 0.0
        else:
            _check_mergeable(folder, report)
            how, error = _from_merged(folder, made, base, base_config, rank)
        for name in set(names) - {CONFIG_FILE, WEIGHTS_FILE}:
            shutil.copyfile(folder / name, made / name, follow_symlinks=False)
        checked = check_folder(made, base_config)
        if checked.findings:
            found = checked.findings[0]
            raise Rejected(
                f"{folder} cannot be converted: {found.where}: {found.message}.", fix=found.fix
            )
        made.rename(out)
    return Conversion(how, error, checked)


# -- without what training left -------------------------------------------------------------------


def _only_names(report: Report) -> bool:
    return all(
        found.check in ("key", "base", "missing", "target") or found.where in _TRAINING_ONLY
        for found in report.findings
    )


def _training_only(name: str) -> bool:
    return any(f".lora_{part}" in name for part in _TRAINING_ONLY.values())


def _plainly(folder: Path, made: Path, base_config: Mapping[str, Any]) -> str:
    """Give each tensor the name that PEFT gives it on this base; leave out what only trained."""
    _check_known(base_config)
    config, known = read_config(folder), set(every(base_config))
    stripped = [field for field in _TRAINING_ONLY if config.get(field)]
    renamed, kept = {}, True
    for name, value in load_file(folder / WEIGHTS_FILE).items():
        if stripped and _training_only(name):
            continue
        found = _KEY.fullmatch(name)
        module = f"model.{found['module']}" if found else ""
        key = f"base_model.model.{module}.lora_{found['side']}.weight" if found else ""
        if module not in known or key in renamed:
            raise Rejected(
                f"{name} is no tensor of this base under another name.",
                fix="Train on this base, or name the right one.",
            )
        renamed[key] = value
        kept &= key == name
    plain = {**config, **dict.fromkeys(stripped)}
    (made / CONFIG_FILE).write_text(json.dumps(plain, indent=2))
    save_file(renamed, made / WEIGHTS_FILE, metadata={"format": "pt"})
    done = [f"{field.removesuffix('_config')} left out" for field in stripped]
    return ", ".join([*done, *([] if kept else ["tensors renamed"])])


def _check_known(base_config: Mapping[str, Any]) -> None:
    if not knows(base_config):
        raise Rejected(
            f"The modules of a {base_config.get('model_type')!r} base are not known here.",
            fix="Convert it with PEFT.",
        )


# -- from initial weights -------------------------------------------------------------------------


def _check_initial(folder: Path, report: Report) -> None:
    """Refuse an adapter that is more than its B A over its initial B₀A₀."""
    _check_kind(read_config(folder), {"LORA"})
    for finding in report.findings:
        left_behind = finding.check == "key" and _training_only(finding.where)
        if finding.where not in _INITIAL_FIELDS and not left_behind:
            raise Rejected(
                f"{folder} cannot be converted by its initial weights: {finding.where}: "
                f"{finding.message}.",
                fix=finding.fix,
            )


def _from_initial(folder: Path, made: Path, initial: Path, rank: int | None) -> tuple[str, float]:
    """Write the difference as LoRA; return what was done and the relative error of the files."""
    written, meant = initial_weights.difference(folder, initial, rank)
    write(written, made, read_config(folder).get("base_model_name_or_path"))
    there = read_deltas(made)
    lost = sum(distance(there[module], delta) ** 2 for module, delta in meant.items())
    size = sum(norm(delta) ** 2 for delta in meant.values())
    largest = max(delta.a.shape[0] for delta in written.values())
    return f"difference from {initial}, rank {largest}", (lost / size) ** 0.5


# -- from the merged weights ----------------------------------------------------------------------


def _check_mergeable(folder: Path, report: Report) -> None:
    """Refuse what PEFT would not merge into what was trained."""
    config = read_config(folder)
    _check_kind(config, merged.TYPES)
    if config["peft_type"] != "LORA":
        return
    other = [
        finding
        for finding in report.findings
        if finding.where not in _MERGED_FIELDS and finding.check not in _HELD_BY_PEFT
    ]
    if not other and not any(finding.where in _MERGED_FIELDS for finding in report.findings):
        other = list(report.findings)
    init = config.get("init_lora_weights", True)
    if initial_weights.changes_base(config) and init not in merged.INITIALISATIONS:
        raise Rejected(
            f"{init!r} changed the base by what is not in the folder.",
            fix="Name the folder that was saved before training: --initial DIR",
        )
    if init not in merged.INITIALISATIONS:
        raise Rejected(f"{str(init)[:40]!r} is not known here.", fix="Train without it.")
    if other:
        raise Rejected(
            f"{folder} cannot be converted: {other[0].where}: {other[0].message}.",
            fix=other[0].fix,
        )


def _check_kind(config: Mapping[str, Any], kinds: Collection[str]) -> None:
    """Refuse other kinds, LoftQ, and what has PEFT import the module `megatron_core` names."""
    kind = str(config.get("peft_type"))[:40]
    if config.get("megatron_config"):
        raise Rejected(f"{kind} of Megatron is not converted.", fix="Train it without Megatron.")
    if kind not in kinds:
        reason = merged.WITHOUT_DELTA.get(kind, "is not converted this way")
        raise Rejected(f"{kind} {reason}.", fix="Train a LoRA.")
    if config.get("init_lora_weights") == "loftq":
        raise Rejected(
            "LoftQ was trained on a quantised base: against this one, ΔW has all of the "
            "quantisation's error in it, which no LoRA serves.",
            fix="Publish it for the base as LoftQ left it, or train without LoftQ.",
        )


def _from_merged(
    folder: Path, made: Path, base: Path, base_config: Mapping[str, Any], rank: int | None
) -> tuple[str, float]:
    """Write the merged ΔW as LoRA; return what was done and the relative error."""
    _check_known(base_config)
    config = read_config(folder)
    ranks = [rank] if rank else [r for r in RANK_CLASSES if r <= LARGEST_RANK]
    cuts = {module: cut_matrix(delta, ranks) for module, delta in merged.deltas(folder, base)}
    size = sum(cut.size for cut in cuts.values())
    errors = {r: (sum(cut.lost[r] for cut in cuts.values()) / size) ** 0.5 for r in ranks}
    chosen = next((r for r in ranks if errors[r] <= EXACT), ranks[-1])
    deltas = {module: cut.at(chosen) for module, cut in cuts.items()}
    write(deltas, made, config.get("base_model_name_or_path"))
    how = f"true ΔW cut to rank {chosen}"
    if kind := initial_weights.changes_base(config):
        how += f"; {kind}'s base computed again, as if it was not quantised in training"
    return how, errors[chosen]
