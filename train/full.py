"""A base that was trained itself: a model's folder, whole or not there, that is a base in turn.

All but the weights is the base's own, byte for byte: config, tokenizer, chat template. Beside them
lie `lineage.json`, the data receipt and the loss curve, which are no part of the base's identity.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.bases import LINEAGE_FILE
from adapters.errors import Rejected, Unavailable, UsageError
from adapters.files import RECEIPT_FILE, fsync_folder, make_folder
from train.resume import run_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from train.plan import Job

_OWN = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_NOT_OWN = (LINEAGE_FILE, RECEIPT_FILE)


@dataclass(frozen=True, slots=True)
class FullModel:
    """A full fine-tune on this machine's disk; `--base` takes its folder."""

    path: Path
    lineage: Mapping[str, Any]
    """base, recipe, dataset, metrics, code: as in a version's manifest."""

    @property
    def ref(self) -> str:
        """For people."""
        return str(self.path)

    def as_json(self) -> dict[str, Any]:
        """Return it as `adapters train --tuner full --json` prints it."""
        return {"path": str(self.path), **self.lineage}


def check_target(job: Job) -> None:
    """Check that a run says where its outcome goes: a version has a name, a full model a folder.

    Raises:
        UsageError: it does not, or says both.
    """
    if job.recipe.tuner == "full":
        if job.name:
            raise UsageError(
                "A full fine-tune is no adapter, so it is not published under a name.",
                fix="Use --output-dir DIR instead of --name; adapters extract makes an adapter "
                "of it.",
            )
        if job.output_dir is None:
            raise UsageError("A full model needs a folder.", fix="Name a new one: --output-dir DIR")
        if job.tags or job.notes:
            raise UsageError("Tags and notes are a version's.", fix="Leave out --tag and --notes.")
    elif job.output_dir:
        raise UsageError(
            "A version goes into the registry.", fix="Use --name NAME instead of --output-dir."
        )
    elif not job.name:
        raise UsageError("The adapter needs a name.", fix="Use --name NAME.")


def finished_at(output_dir: Path, key: str, *, again: bool = False) -> FullModel | None:
    """Return the model that a run (see `train.resume.run_key`) has left there; None: nothing is.

    Raises:
        Rejected: something else is there, or anything where it is to be made `again`.
    """
    if not output_dir.exists():
        return None
    try:
        lineage = json.loads((output_dir / LINEAGE_FILE).read_bytes())
        made = (lineage[part] for part in ("base", "recipe", "dataset", "code"))
        if run_key(*made) == key and not again:
            return FullModel(output_dir, lineage)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise Rejected(
        f"{output_dir} exists{'' if again else ', and is not what this run makes'}.",
        fix="Name a folder that does not: --output-dir DIR",
    )


def write_weights(model: PreTrainedModel, base: Path, out: Path) -> None:
    """Save a model that was trained in float32 in its base's own type, with the base's own files.

    The model itself is rounded so too, and stays in float32: what is measured on it is true of
    what was saved.
    """
    import torch
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(base).dtype or torch.float32
    kept = {name: value.dtype for name, value in model.named_parameters()}
    for value in model.parameters():
        value.data = value.data.to(own)
    model.save_pretrained(out, safe_serialization=True)
    for name, value in model.named_parameters():
        value.data = value.data.to(kept[name])
    weights = {path.name for pattern in _WEIGHTS for path in out.glob(pattern)}
    for path in out.iterdir():
        if path.name in weights:
            path.chmod(0o644)  # else for its owner alone, as safetensors writes it
        else:
            path.unlink()
    for pattern in _OWN:
        for path in base.glob(pattern):
            if path.name not in _NOT_OWN and not path.match(_WEIGHTS[1]):
                shutil.copyfile(path, out / path.name)


def place(folder: Path, output_dir: Path, lineage: Mapping[str, Any]) -> FullModel:
    """Move a trained model's folder to where it is wanted, by one rename: whole or not at all.

    Raises:
        Rejected: something is there by now.
        Unavailable: it cannot be written.
    """
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=2, ensure_ascii=False) + "\n")
    try:
        make_folder(output_dir.parent)
        try:
            folder.rename(output_dir)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=".full-") as scratch:
                staged = shutil.copytree(folder, Path(scratch) / "model")
                Path(staged).rename(output_dir)
        fsync_folder(output_dir.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise Rejected(
                f"{output_dir} exists.", fix="Name a folder that does not: --output-dir DIR"
            ) from error
        raise Unavailable(
            f"Cannot write {output_dir}: {error.strerror or error}.",
            fix="Check the folder and its rights; the same command goes on from there.",
        ) from error
    return FullModel(output_dir, lineage)
