"""One run: a dataset, a base and a recipe in; a published version out.

Everything is written into a temporary folder and becomes visible by one atomic publication: a
run that fails, or is interrupted, leaves nothing behind.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import bases
from adapters.errors import MissingExtra, Rejected
from adapters.files import CONFIG_FILE, RECEIPT_FILE
from adapters.lint import rank_class
from adapters.registry import Registry
from adapters.types import Version, check_name
from train.recipe import Recipe
from train.rows.files import dataset_files, fetch_dataset
from train.rows.receipt import to_bytes

if TYPE_CHECKING:
    from train.prepare import Prepared

_PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, where it goes."""

    dataset: str
    """A file, a folder of files, or a Hub dataset's id."""
    base: str
    name: str
    recipe: Recipe
    revision: str | None = None
    eval_dataset: str | None = None
    dataset_revision: str | None = None
    tags: Sequence[str] = ()
    notes: str = ""


def run(job: Job, registry: Registry) -> Version:
    """Train and publish. Progress goes to stderr, a bar where that is a terminal.

    Raises:
        InvalidName, InvalidDataset, UsageError: refused before the base is loaded.
        NotFound, Rejected, Unavailable: the base (see `adapters.bases.resolve`), the dataset (see
            `train.prepare.prepare`).
        InvalidAdapter, RegistryUnavailable: see `Registry.publish`.
        MissingExtra: torch, trl, peft or bitsandbytes is not installed.
    """
    check_name(job.name)
    path, _ = fetch_dataset(job.dataset, revision=job.dataset_revision)
    dataset_files(path)
    registry.check_writable()
    base = bases.resolve(job.base, revision=job.revision)
    say(f"base {base.model.id} @ {base.model.revision[:19]}")
    tokenizer = load_tokenizer(base.path)
    with tempfile.TemporaryDirectory(prefix="adapters-train-") as scratch:
        rows = _prepare(job, tokenizer, Path(scratch))
        folder = Path(scratch) / "adapter"
        metrics = _train(job.recipe, base, tokenizer, rows, folder)
        (folder / RECEIPT_FILE).write_bytes(to_bytes(rows.receipt.details()))
        return _publish(job, base, rows.lineage, metrics, folder, registry)


def load_tokenizer(base: Path) -> Any:
    """Return a base's own tokenizer, fit to train with.

    Raises:
        Rejected: not a fast one, or one with tokens that the base has no embedding for.
        MissingExtra: transformers is not installed.
    """
    transformers = _import("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from train.tokens import check_vocabulary

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    if not tokenizer.is_fast:
        raise Rejected(f"{base} has no fast tokenizer.", fix="Save one: tokenizer.json.")
    check_vocabulary(tokenizer, transformers.AutoConfig.from_pretrained(base).vocab_size)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _prepare(job: Job, tokenizer: Any, scratch: Path) -> Prepared:
    _import("datasets")
    from train.prepare import prepare

    with counting("row", "reading") as progress:
        rows = prepare(
            job.dataset,
            job.recipe,
            tokenizer,
            scratch,
            revision=job.dataset_revision,
            eval_dataset=job.eval_dataset,
            processes=len(os.sched_getaffinity(0)),
            progress=progress,
        )
    counts = {key: count for key, count in rows.receipt.as_json().items() if count}
    say(f"{rows.receipt.form}: " + ", ".join(f"{key} {count}" for key, count in counts.items()))
    return rows


@contextmanager
def counting(unit: str, what: str) -> Iterator[Callable[[int], None]]:
    """Count something of unknown number on a terminal's stderr; say nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(unit=unit, desc=what, file=sys.stderr, disable=None, leave=False) as bar:

        def show(count: int) -> None:
            bar.update(count - bar.n)

        yield show


def _train(
    recipe: Recipe, base: bases.LocalBase, tokenizer: Any, rows: Prepared, folder: Path
) -> dict[str, float]:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses optional kernels, aloud
    for package in _PACKAGES:
        _import(package)
    from train import loop

    with _progress() as progress:
        return loop.train(
            recipe, base.path, tokenizer, rows.train, rows.held_out, out=folder, progress=progress
        )


@contextmanager
def _progress() -> Iterator[Callable[[int, int, float], None]]:
    """Show the steps on stderr: a bar on a terminal, ten lines elsewhere."""
    from tqdm import tqdm

    with tqdm(unit="step", desc="training", file=sys.stderr, disable=None, leave=False) as bar:

        def show(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(step - bar.n)
            if bar.disable and step * 10 // steps > (step - 1) * 10 // steps:
                say(f"step {step} of {steps}, loss {loss:.3f}")

        yield show


def _publish(
    job: Job,
    base: bases.LocalBase,
    dataset: dict[str, Any],
    metrics: dict[str, float],
    folder: Path,
    registry: Registry,
) -> Version:
    config = json.loads((folder / CONFIG_FILE).read_text())
    if isinstance(config["target_modules"], list):  # PEFT keeps a set, in no fixed order
        config["target_modules"].sort()
    config["base_model_name_or_path"] = base.model.id  # not this machine's path to it
    config["revision"] = None if base.model.local else base.model.revision
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    recipe = asdict(job.recipe)
    from adapters.card import card

    text = card(job.name, base.model, recipe, dataset, metrics, rank_class(job.recipe.r))
    (folder / "README.md").write_text(text, encoding="utf-8")
    return registry.publish(
        job.name,
        folder,
        base=base.model,
        base_path=base.path,
        recipe=recipe,
        dataset=dataset,
        metrics=metrics,
        code={package: package_version(package) for package in _PACKAGES},
        tags=job.tags,
        notes=job.notes,
    )


def _import(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f"Training needs {package}: {error}.",
            fix="Install it: pip install 'lora-switchyard[cpu]' or 'lora-switchyard[gpu]'.",
        ) from error


def say(text: str) -> None:
    """Tell how it goes, on stderr."""
    print(text, file=sys.stderr)
