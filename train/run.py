"""One run: a dataset, a base and a recipe in; a published version out.

Everything is written into a temporary folder and becomes visible by one atomic publication: a
run that fails, or is interrupted, leaves nothing behind.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from adapters import bases
from adapters.errors import MissingExtra, Rejected
from adapters.files import CONFIG_FILE, sha256_file
from adapters.lint import rank_class
from adapters.registry import Registry
from adapters.types import Version, check_name
from train.recipe import Recipe
from train.rows import read_rows

_PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, where it goes."""

    dataset: Path
    base: str
    name: str
    recipe: Recipe
    revision: str | None = None
    tags: Sequence[str] = ()
    notes: str = ""


def run(job: Job, registry: Registry) -> Version:
    """Train and publish. Progress goes to stderr, a bar where that is a terminal.

    Raises:
        InvalidName, InvalidDataset, UsageError: refused before the base is loaded.
        NotFound, Rejected, Unavailable: the base (see `adapters.bases.resolve`).
        InvalidAdapter, RegistryUnavailable: see `Registry.publish`.
        MissingExtra: torch, trl, peft or bitsandbytes is not installed.
    """
    check_name(job.name)
    recipe = job.recipe
    form, rows = read_rows(
        job.dataset,
        prompt_column=recipe.prompt_column,
        completion_column=recipe.completion_column,
    )
    registry.check_writable()
    base = bases.resolve(job.base, revision=job.revision)
    _say(f"base {base.model.id} @ {base.model.revision[:19]}; {len(rows)} rows, {form}")
    transformers = _import("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from train.tokens import tokenise

    tokenizer = transformers.AutoTokenizer.from_pretrained(base.path)
    if not tokenizer.is_fast:
        raise Rejected(f"{job.base} has no fast tokenizer.", fix="Save one: tokenizer.json.")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    examples, held_out, receipt = tokenise(
        rows, tokenizer, max_length=recipe.max_length, test_size=recipe.test_size
    )
    _say(", ".join(f"{key} {value}" for key, value in receipt.as_json().items()))
    dataset = {
        "path": job.dataset.name,
        "sha256": sha256_file(job.dataset),
        "format": form,
        **receipt.as_json(),
    }
    with tempfile.TemporaryDirectory(prefix="adapters-train-") as scratch:
        folder = Path(scratch)
        metrics = _train(recipe, base, tokenizer, examples, held_out, folder)
        return _publish(job, base, dataset, metrics, folder, registry)


def _train(
    recipe: Recipe,
    base: bases.LocalBase,
    tokenizer: Any,
    examples: list[Any],
    held_out: list[Any],
    folder: Path,
) -> dict[str, float]:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses optional kernels, aloud
    for package in _PACKAGES:
        _import(package)
    from train import qlora

    with _progress() as progress:
        return qlora.train(
            recipe, base.path, tokenizer, examples, held_out, out=folder, progress=progress
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
                _say(f"step {step} of {steps}, loss {loss:.3f}")

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


def _say(text: str) -> None:
    print(text, file=sys.stderr)
