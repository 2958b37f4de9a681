"""A full fine-tune as an adapter: ΔW = W_tuned − W_base of each projection, cut to a rank.

Holds one pair of tensors at a time, whatever the size of the models. What of the change LoRA does
not carry (embeddings, norms, biases, the head) is measured, and refused where it is more than a
little.

Source: truncated SVD is the best approximation of a rank (Eckart-Young); LoRA from full
fine-tunes: arXiv 2410.21228.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import bases
from adapters.card import card
from adapters.deltas import Delta
from adapters.errors import Rejected
from adapters.files import CARD_FILE
from adapters.lint import read_base_config
from adapters.projections import every, knows
from adapters.registry import Registry
from adapters.types import Version, check_name

if TYPE_CHECKING:
    from torch import Tensor

NEGLIGIBLE = 0.01
"""Relative change of a tensor that LoRA does not carry, up to which it is left out."""
_INDEX = "model.safetensors.index.json"
_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
_INDIFFERENT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
"""Keys of config.json that do not change what weights compute; those of tokens neither."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What to extract, from what, at which rank."""

    base: str
    tuned: str
    """A folder or a Hub id, as `base`."""
    name: str
    r: int = 64
    ignore: tuple[str, ...] = ()
    """Patterns of tensors whose change may be left out, however large: `*norm.weight`."""
    base_revision: str | None = None
    tuned_revision: str | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """What one tensor's change is, and how much of it is lost; Frobenius norms."""

    tensor: str
    change: float
    """‖ΔW‖ / ‖W‖"""
    error: float
    """‖ΔW − B A‖ / ‖ΔW‖; 1 where it is left out."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """The version, and what it carries of the fine-tune."""

    version: Version
    carried: tuple[Loss, ...]
    left_out: tuple[Loss, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as `adapters extract --json` prints it."""
        metrics = self.version.manifest.metrics
        return {
            "engine_name": self.version.engine_name,
            "path": str(self.version.path),
            "relative_error": metrics["extraction_error"],
            "modules": [
                {"module": each.tensor, "change": each.change, "relative_error": each.error}
                for each in self.carried
            ],
            "left_out": [{"tensor": each.tensor, "change": each.change} for each in self.left_out],
        }


def extract(asked: Extraction, registry: Registry) -> Extracted:
    """Publish a full fine-tune of a base as an adapter. Atomic. Shows progress at a terminal.

    `metrics`: `extraction_error`, ‖ΔW − B A‖ / ‖ΔW‖ over all modules, that of the worst as
    `extraction_error_worst`, and `left_out_change`, the largest relative change that is left out.

    Raises:
        InvalidName, NotFound, Unavailable: the name, or one of the models.
        Rejected: the two are not of one architecture and vocabulary, are quantised or the same, or
            something that LoRA does not carry changed too much.
        InvalidAdapter, RegistryUnavailable: see `Registry.publish`.
    """
    check_name(asked.name)
    registry.check_writable()
    base = bases.resolve(asked.base, revision=asked.base_revision)
    tuned = bases.resolve(asked.tuned, revision=asked.tuned_revision)
    config = _check_configs(base.path, tuned.path)
    if base.model.chat_template_sha256 != tuned.model.chat_template_sha256:
        print(
            "! The tuned model has another chat template; the server renders by the base's.",
            file=sys.stderr,
        )
    found = _Found(frozenset(every(config)))
    for name, before, after in _pairs(base.path, tuned.path):
        _take(found, name, before, after, asked.r)
        del before, after  # before the next two are read
    _check_left_out(found.left_out, asked)
    if not found.deltas:
        raise Rejected(f"{asked.tuned} changes no projection.", fix="Name a fine-tune of the base.")
    from train.lowrank import write

    error = (sum(found.lost) / sum(found.sizes)) ** 0.5
    metrics = {
        "extraction_error": error,
        "extraction_error_worst": max(each.error for each in found.carried),
        "left_out_change": max((each.change for each in found.left_out), default=0.0),
    }
    recipe = {
        "extract": tuned.model.id,
        "extract_revision": tuned.model.revision,
        "r": asked.r,
        "ignore": list(asked.ignore),
    }
    with tempfile.TemporaryDirectory(prefix="adapters-extract-") as folder:
        rank = write(found.deltas, Path(folder), base.model.id)
        text = card(asked.name, base.model, recipe, {}, metrics, rank)
        (Path(folder) / CARD_FILE).write_text(text, encoding="utf-8")
        version = registry.publish(
            asked.name,
            Path(folder),
            base=base.model,
            base_path=base.path,
            recipe=recipe,
            metrics=metrics,
        )
    return Extracted(version, tuple(found.carried), tuple(found.left_out))


@dataclass(slots=True)
class _Found:
    """What was gone through so far."""

    projections: frozenset[str]
    """What LoRA can carry."""
    deltas: dict[str, Delta] = field(default_factory=dict)
    carried: list[Loss] = field(default_factory=list)
    left_out: list[Loss] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    """‖ΔW‖² of each that is carried"""
    lost: list[float] = field(default_factory=list)


def _take(found: _Found, name: str, before: Tensor, after: Tensor, r: int) -> None:
    import torch

    from train.lowrank import cut_matrix

    if before.shape != after.shape:
        raise Rejected(
            f"{name} is {tuple(before.shape)} in the base and {tuple(after.shape)} in the tuned "
            "model.",
            fix="Name the base that it was tuned from; added tokens no adapter carries.",
        )
    size = float(torch.linalg.vector_norm(before, dtype=torch.float64))
    delta = after - before
    length = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
    if not length:
        return
    if length != length or length == float("inf"):
        raise Rejected(f"{name} has NaN or infinity in it.", fix="Take an earlier checkpoint.")
    change = length / size if size else float("inf")
    module = name.removesuffix(".weight")
    if not name.startswith("model.layers.") or module not in found.projections:
        found.left_out.append(Loss(name, change, 1.0))
        return
    cut = cut_matrix(delta, [r])
    found.deltas[module] = cut.at(r)
    found.carried.append(Loss(module, change, (cut.lost[r] / cut.size) ** 0.5))
    found.sizes.append(cut.size)
    found.lost.append(cut.lost[r])


def _check_left_out(left_out: Sequence[Loss], asked: Extraction) -> None:
    """Refuse to leave out what changed more than a little, unless that is ignored by name.

    Raises:
        Rejected: as said, with what changed most; or a pattern is of nothing that changed.
    """
    for pattern in asked.ignore:
        if not any(fnmatchcase(each.tensor, pattern) for each in left_out):
            raise Rejected(
                f"--ignore {pattern} is of no tensor that changed and LoRA does not carry.",
                fix="Leave it out.",
            )
    much = [
        each
        for each in left_out
        if each.change > NEGLIGIBLE
        and not any(fnmatchcase(each.tensor, pattern) for pattern in asked.ignore)
    ]
    if much:
        worst = max(much, key=lambda each: each.change)
        others = f", and {len(much) - 1} more like it" if len(much) > 1 else ""
        kinds = sorted({_pattern(each.tensor) for each in much})
        raise Rejected(
            f"{worst.tensor} changed by {worst.change:.1%}{others}: LoRA on projections does not "
            "carry that, so the adapter would answer otherwise.",
            fix=f"Leave it out all the same: {' '.join(f'--ignore {kind!r}' for kind in kinds)}; "
            "or serve the tuned model itself: adapters serve --base.",
        )


def _pattern(tensor: str) -> str:
    """Return a pattern of all tensors of a kind: `*.input_layernorm.weight`."""
    _, *kind = tensor.rsplit(".", 2)
    return f"*.{'.'.join(kind)}" if len(kind) == 2 else tensor


# -- the two models -------------------------------------------------------------------------------


def _check_configs(base: Path, tuned: Path) -> dict[str, Any]:
    """Return the base's configuration; the other one must compute the same from its weights."""
    config, other = read_base_config(base), read_base_config(tuned)
    for path, content in ((base, config), (tuned, other)):
        if content.get("quantization_config"):
            raise Rejected(
                f"{path} is quantised, so there is no difference of weights.",
                fix="Name the model as it was before that.",
            )
    if not knows(config):
        raise Rejected(
            f"The modules of a {config.get('model_type')!r} base are not known here.",
            fix="Extract from a Llama, Qwen, Mistral or another of the bases that lint knows.",
        )
    apart = [
        key
        for key in sorted(config.keys() | other.keys())
        if key not in _INDIFFERENT
        and not key.endswith("_token_id")
        and config.get(key) != other.get(key)
    ]
    if apart:
        raise Rejected(
            f"The two compute differently: {', '.join(apart)} in their config.json.",
            fix="Name the base that it was tuned from, as it was.",
        )
    return config


def _pairs(base: Path, tuned: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each tensor's name and what it is in either model, float32, one pair at a time."""
    from tqdm import tqdm

    with _opened(base) as before, _opened(tuned) as after:
        tied = _HEAD in before.keys() ^ after.keys()
        if apart := (before.keys() ^ after.keys()) - {_HEAD}:
            raise Rejected(
                f"Only one of the two has {min(apart)}.", fix="Name the base it was tuned from."
            )
        bar = tqdm(
            sorted(before.keys() | after.keys()),
            unit="tensor", desc="extracting", file=sys.stderr, disable=None, leave=False,
        )  # fmt: skip
        for name in bar:
            sides = []
            for side in (before, after):
                held = name if name in side or not tied else _EMBEDDINGS  # one for both, not two
                sides.append(side[held].get_tensor(held).float())
            yield name, sides[0], sides[1]


@contextmanager
def _opened(folder: Path) -> Iterator[dict[str, Any]]:
    """Give the open file that holds each tensor: mapped, and not read yet."""
    from safetensors import safe_open

    index = folder / _INDEX
    names = [path.name for path in folder.glob("model*.safetensors")]
    if index.is_file():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    elif not names:
        names = [path.name for path in folder.glob("*.safetensors")]
    with ExitStack() as stack:
        files = [
            stack.enter_context(safe_open(folder / name, framework="pt")) for name in sorted(names)
        ]
        yield {name: file for file in files for name in file.keys()}  # noqa: SIM118
