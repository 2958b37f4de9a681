"""Adapters made elsewhere become versions: PEFT folders and checkpoints of any trainer, the Hub.

Takes the adapter out of whatever lies beside it (optimizer states, pickled arguments, trainer
logs), never follows a link, never opens a pickle. The registry's own checks follow.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import bases
from adapters.errors import InvalidAdapter
from adapters.files import (
    CONFIG_FILE,
    SERVING_FILE,
    TOLD_FILES,
    WEIGHTS_FILE,
    copy_in,
    sha256_file,
)
from adapters.lint import read_config
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version, check_name

_TAKEN = (CONFIG_FILE, WEIGHTS_FILE, SERVING_FILE, *TOLD_FILES)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "chat_template.jinja")
_PICKLED = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
_LOG_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    version: Version
    left_out: tuple[str, ...]
    """Files beside the adapter that a version does not hold."""
    warnings: tuple[str, ...]


def import_adapter(
    registry: Registry,
    source: str,
    name: str,
    *,
    base: str | None = None,
    revision: str | None = None,
    serving: Serving | None = None,
    tags: Sequence[str] = (),
    notes: str = "",
) -> Imported:
    """Publish the adapter at `source` as the next version of `name`. Atomic, as `publish` is.

    `source`: a folder, or a Hub id. `base`: None takes what adapter_config.json names. `serving`:
    the server's defaults; None takes those that lie beside the adapter, if there are any.

    Raises:
        InvalidName, NotFound, Unavailable: the name, the source or the base (see
            `adapters.bases.resolve`).
        InvalidAdapter: no adapter there, a pickled one, or one that lint refuses.
        RegistryUnavailable: see `Registry.publish`.
    """
    check_name(name)
    folder, origin = _locate(source, revision)
    config = read_config(folder)
    found = bases.resolve(base or _named_base(folder, config))
    metrics = _metrics(folder)
    with tempfile.TemporaryDirectory(prefix="adapters-import-") as scratch:
        for file in _TAKEN:
            if (folder / file).exists():
                _copy(folder / file, Path(scratch) / file)
        if serving:
            (Path(scratch) / SERVING_FILE).unlink(missing_ok=True)
            (Path(scratch) / SERVING_FILE).write_bytes(serving.to_bytes())
        version = registry.publish(
            name,
            Path(scratch),
            base=found.model,
            base_path=found.path,
            metrics=metrics,
            code=origin,
            tags=tags,
            notes=notes,
        )
    left_out = sorted(f.name for f in folder.iterdir() if f.name not in _TAKEN)
    return Imported(version, tuple(left_out), tuple(_warnings(folder, found.path)))


def _locate(source: str, revision: str | None) -> tuple[Path, dict[str, str]]:
    """Return the folder, and where it came from: a name and, from the Hub, a commit."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        snapshot, commit = bases.from_hub(source, revision)
        return _with_adapter(snapshot), {"imported_from": source, "imported_revision": commit}
    return _with_adapter(folder.absolute()), {"imported_from": folder.absolute().name}


def _with_adapter(folder: Path) -> Path:
    pickled = [file for file in _PICKLED if (folder / file).exists()]
    if pickled and not (folder / WEIGHTS_FILE).exists():
        raise InvalidAdapter(
            f"{folder} holds its weights as a pickle, {pickled[0]}.",
            fix="Load it with PEFT where you trust it, then save_pretrained() writes safetensors.",
        )
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).exists():
            hint = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG_FILE}"))[-1:]
            raise InvalidAdapter(
                f"{folder} has no {file}.",
                fix=f"There is one in {folder / hint[0]}." if hint else "Name a PEFT folder.",
            )
    return folder


def _named_base(folder: Path, config: dict[str, Any]) -> str:
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise InvalidAdapter(f"{folder / CONFIG_FILE} names no base.", fix="Say which: --base B.")
    return named


def _copy(source: Path, target: Path) -> None:
    try:
        copy_in(source, target)
    except OSError as error:
        raise InvalidAdapter(
            f"{source} cannot be copied: {error.strerror or error}.",
            fix="Links and pipes are never followed: put the file itself there.",
        ) from error


def _metrics(folder: Path) -> dict[str, float]:
    """Return the last losses that transformers' Trainer logged beside a checkpoint, if it did."""
    path = folder / "trainer_state.json"
    if not path.is_file() or path.is_symlink() or path.stat().st_size > _LOG_LIMIT_BYTES:
        return {}
    try:
        state = json.loads(path.read_bytes())
        logged = [entry for entry in state["log_history"] if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    found = {}
    for ours, theirs in (("train_loss", "loss"), ("eval_loss", "eval_loss")):
        losses = [entry[theirs] for entry in logged if isinstance(entry.get(theirs), float)]
        if losses:
            found[ours] = losses[-1]
    return found


def _warnings(folder: Path, base: Path) -> list[str]:
    """Say where the adapter was trained with another tokenizer or template than the base's."""
    return [
        f"{file} differs from the base's. The server uses the base's, so prompts may be rendered "
        "otherwise than in training."
        for file in _TOKENIZER_FILES
        if (folder / file).is_file()
        and (base / file).is_file()
        and sha256_file(folder / file) != sha256_file(base / file)
    ]
