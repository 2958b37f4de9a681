"""A dataset prepared for one run: sifted, tokenised, on disk as Arrow, with its receipt.

Rows never lie in memory all at once: they go from the file through `train.sift` into Arrow files
in the run's scratch folder, which the trainer maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from adapters.errors import InvalidDataset
from adapters.files import sha256_file
from train.recipe import PURPOSES, Recipe
from train.rows import duplicates
from train.rows.files import dataset_files, fetch_dataset
from train.rows.forms import Form, Row
from train.rows.receipt import Receipt
from train.sift import Sieve, Sifted, find_form, sift
from train.tokens import check_masks

_TOKENS = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
_BATCH = 1000
_LOOKED_AT = 64
"""Rows on which masks are proven before a run."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run trains on."""

    train: Dataset
    held_out: Dataset | None
    receipt: Receipt
    lineage: dict[str, Any]
    """What the manifest keeps of the dataset: its name, sha256, form and the receipt's counts."""
    first: list[Row]
    """Some of the rows, to be shown and checked."""


def prepare(
    dataset: str,
    recipe: Recipe,
    tokenizer: Any,
    scratch: Path,
    *,
    revision: str | None = None,
    eval_dataset: str | None = None,
    processes: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> Prepared:
    """Read, sift and tokenise a dataset into `scratch`.

    `eval_dataset`: rows to validate on; then none of the dataset's own are held out.

    Raises:
        InvalidDataset: unreadable, of another purpose than the method's, or more of it is lost
            than the recipe allows.
        NotFound, Unavailable: see `files.fetch_dataset`.
        Rejected: the base's template cannot render it, or the masks are wrong.
    """
    path, commit = fetch_dataset(dataset, revision=revision)
    lineage: dict[str, Any] = {
        "path": path.name if not commit else dataset,
        "sha256": _digest(path),
    }
    if commit:
        lineage["revision"] = commit
    held_out = None
    prompts = None
    if eval_dataset:
        validation, _ = fetch_dataset(eval_dataset)
        counted = Receipt()
        given = list(_sifted(validation, recipe, tokenizer, counted, frozenset(), processes))
        if not given:
            raise InvalidDataset(f"{eval_dataset} holds no row to validate on.", fix="Mend it.")
        prompts = frozenset(duplicates.prompt_key(row.row) for row in given)
        held_out = _on_disk(given, scratch / "eval.arrow", recipe)
        lineage["eval_dataset"] = {"path": validation.name, "sha256": _digest(validation)}
        lineage["eval_dataset"] |= counted.as_json()
    receipt = Receipt()
    first: list[Row] = []
    sides: dict[str, _Side] = {
        side: _Side(scratch / f"{side}.arrow", recipe) for side in ("train", "eval")
    }
    for row in _sifted(path, recipe, tokenizer, receipt, prompts, processes, progress):
        sides[row.side].add(row.example)
        if len(first) < _LOOKED_AT:
            first.append(row.row)
    receipt.check(**recipe.may_be_lost())
    if PURPOSES[recipe.method] == "sft" and tokenizer.chat_template:
        check_masks(first, tokenizer)
    lineage |= {"format": receipt.form, **receipt.as_json(), "receipt_sha256": receipt.digest()}
    train = sides["train"].close()
    assert train is not None  # the receipt says so
    return Prepared(train, held_out or sides["eval"].close(), receipt, lineage, first)


def _sifted(
    path: Path,
    recipe: Recipe,
    tokenizer: Any,
    receipt: Receipt,
    held_out: frozenset[bytes] | None,
    processes: int,
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterable[Sifted]:
    form = find(path, recipe)
    wanted = PURPOSES[recipe.method]
    if form.purpose != wanted and not (wanted == "prompt" and form.purpose == "sft"):
        raise InvalidDataset(
            f"{path} holds {form.name} rows; --method {recipe.method} learns from {wanted} rows.",
            fix="Say which column holds the answers: --completion-column NAME."
            if form.purpose == "prompt"
            else f"Use --method {_method_for(form.purpose)}, or name another dataset.",
        )
    return sift(
        path,
        form,
        sieve(recipe),
        tokenizer,
        receipt,
        purpose=wanted,
        held_out=held_out,
        processes=processes,
        progress=progress,
    )


def find(path: Path, recipe: Recipe) -> Form:
    """Return the form of a dataset as a recipe says it, or else as it is detected.

    Raises:
        InvalidDataset: see `train.sift.find_form`.
    """
    return find_form(
        path,
        form=recipe.form,
        prompt_column=recipe.prompt_column,
        completion_column=recipe.completion_column,
    )


def sieve(recipe: Recipe) -> Sieve:
    """Return what a recipe says of rows."""
    return Sieve(
        test_size=recipe.test_size,
        max_length=recipe.max_length,
        too_long=recipe.too_long,
        near_duplicates=recipe.near_duplicates,
        near_duplicate_threshold=recipe.near_duplicate_threshold,
    )


def _method_for(purpose: str) -> str:
    return next((method for method, wanted in PURPOSES.items() if wanted == purpose), "sft")


def _digest(path: Path) -> str:
    """Return the sha256 of a dataset's file; of a folder, that of its files' `sha256sum` lines."""
    if path.is_file():
        return sha256_file(path)
    lines = [f"{sha256_file(file)}  {file.relative_to(path)}\n" for file in dataset_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# -- Arrow ----------------------------------------------------------------------------------------


class _Side:
    """One side of a dataset, written as it comes: token ids as Arrow, chats as they are.

    Chats stay in memory, as Arrow would give every turn the keys that any turn has; datasets of
    preferences and prompts are small.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self._path = path
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._tokens = PURPOSES[recipe.method] == "sft"
        self._waiting: list[dict[str, Any]] = []

    def add(self, example: dict[str, Any]) -> None:
        self._waiting.append(example)
        if self._tokens and len(self._waiting) == _BATCH:
            self._write()

    def _write(self) -> None:
        if self._writer is None:
            self._writer = pa.ipc.new_stream(str(self._path), _TOKENS)
        self._writer.write_table(pa.Table.from_pylist(self._waiting, _TOKENS))
        self._waiting = []

    def close(self) -> Dataset | None:
        """Return the whole side; None where it is empty."""
        if not self._tokens:
            return Dataset.from_list(self._waiting) if self._waiting else None
        if self._waiting:
            self._write()
        if self._writer is None:
            return None
        self._writer.close()
        return Dataset.from_file(str(self._path))


def _on_disk(rows: Iterable[Sifted], path: Path, recipe: Recipe) -> Dataset | None:
    side = _Side(path, recipe)
    for row in rows:
        side.add(row.example)
    return side.close()
