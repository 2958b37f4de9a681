"""A dataset prepared for one run: sifted, tokenised, on disk as Arrow, with its receipt.

Rows never lie in memory all at once: they go from the file through `train.sift` into Arrow files
in the run's scratch folder, which the trainer maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter

from adapters.errors import InvalidDataset
from adapters.files import sha256_file
from train.columns import FEATURES
from train.recipe import PURPOSES, Recipe
from train.replay import HELD_OUT, Replay, choose
from train.rows import duplicates
from train.rows.files import dataset_files, fetch_dataset
from train.rows.forms import Form, Row
from train.rows.receipt import Receipt, to_bytes
from train.sift import Sieve, Sifted, find_form, sift
from train.tokens import check_masks

_PLACE = "place"
"""The column of each row's `file:line`, which no trainer takes."""
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
    places: Sequence[str]
    """Of each row of `train`, where it stands: `support.jsonl:12`; read as they are asked for."""
    retained: Dataset | None
    """Replay rows that measure forgetting, as `train` for SFT; None without replay."""
    details: dict[str, Any]
    """The receipt with that of the replay in it: `data_receipt.json`."""


def identify(
    dataset: str,
    *,
    revision: str | None = None,
    eval_dataset: str | None = None,
    replay: Replay | None = None,
) -> dict[str, Any]:
    """Return what a run's datasets are, by content: the beginning of its lineage.

    Raises:
        InvalidDataset, NotFound, Unavailable: see `files.fetch_dataset`, `files.dataset_files`.
    """
    path, commit = fetch_dataset(dataset, revision=revision)
    found: dict[str, Any] = {
        "path": path.name if not commit else dataset,
        "sha256": _digest(path),
    }
    if commit:
        found["revision"] = commit
    if eval_dataset:
        found["eval_dataset"] = identify(eval_dataset)
    if replay:
        found["replay"] = identify(replay.dataset) | {"share": replay.share}
    return found


def prepare(
    dataset: str,
    recipe: Recipe,
    tokenizer: Any,
    scratch: Path,
    *,
    revision: str | None = None,
    eval_dataset: str | None = None,
    replay: Replay | None = None,
    identity: Mapping[str, Any] | None = None,
    processes: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> Prepared:
    """Read, sift and tokenise a dataset into `scratch`.

    `eval_dataset`: rows to validate on; then none of the dataset's own are held out. `replay`:
    rows of another that are mixed in. `identity`: what `identify` says of them all, where that is
    known already.

    Raises:
        InvalidDataset: unreadable, of another purpose than the method's, or more of it is lost
            than the recipe allows.
        NotFound, Unavailable: see `files.fetch_dataset`.
        Rejected: the base's template cannot render it, or the masks are wrong.
    """
    path, _ = fetch_dataset(dataset, revision=revision)
    lineage = dict(
        identity or identify(dataset, revision=revision, eval_dataset=eval_dataset, replay=replay)
    )
    held_out = None
    prompts = None
    if eval_dataset:
        validation, _ = fetch_dataset(eval_dataset)
        counted = Receipt()
        given = list(_sifted(validation, recipe, tokenizer, counted, frozenset(), processes))
        if not given:
            raise InvalidDataset(f"{eval_dataset} holds no row to validate on.", fix="Mend it.")
        prompts = frozenset(duplicates.prompt_key(row.row) for row in given)
        purpose = _encoded_as(find(validation, recipe), recipe)
        held_out = _on_disk(given, scratch / "validation.arrow", purpose)
        lineage["eval_dataset"] = lineage["eval_dataset"] | counted.as_json()
    receipt = Receipt()
    first: list[Row] = []
    purpose = _encoded_as(find(path, recipe), recipe)
    sides: dict[str, _Side] = {
        side: _Side(scratch / f"{side}.arrow", purpose) for side in ("train", "eval")
    }
    for row in _sifted(path, recipe, tokenizer, receipt, prompts, processes, progress):
        sides[row.side].add(row)
        if len(first) < _LOOKED_AT:
            first.append(row.row)
    receipt.check(**recipe.may_be_lost())
    if purpose == "sft" and tokenizer.chat_template:
        check_masks(first, tokenizer)
    details = receipt.details()
    retained = None
    if replay:
        chosen, kept, counted = _replayed(replay, recipe, tokenizer, receipt.train_rows, processes)
        for row in chosen:
            sides["train"].add(row)
        retained = _on_disk(kept, scratch / "retained.arrow", "sft")
        details["replay"] = counted.details()
        lineage["replay"] = lineage["replay"] | counted.as_json() | {"train_rows": len(chosen)}
    lineage |= {"format": receipt.form, **receipt.as_json()}
    lineage["receipt_sha256"] = hashlib.sha256(to_bytes(details)).hexdigest()
    train = sides["train"].close()
    assert train is not None  # the receipt says so
    return Prepared(
        train=train.remove_columns(_PLACE),
        held_out=held_out or _rows(sides["eval"]),
        receipt=receipt,
        lineage=lineage,
        first=first,
        places=train[_PLACE],
        retained=retained,
        details=details,
    )


def _replayed(
    replay: Replay, recipe: Recipe, tokenizer: Any, own: int, processes: int
) -> tuple[list[Sifted], list[Sifted], Receipt]:
    """Return the replay rows to train on and to measure by, and their receipt.

    Raises:
        InvalidDataset: they cannot be mixed with the method's rows, or none is left to measure by.
    """
    path, _ = fetch_dataset(replay.dataset)
    form = find(path, Recipe())
    if form.purpose != "sft" or (recipe.method != "sft" and replay.share):
        raise InvalidDataset(
            f"{path} holds {form.name} rows, which --method {recipe.method} cannot mix in.",
            fix=f"Replay rows with answers, or measure only: --replay {replay.dataset}=0",
        )
    receipt = Receipt()
    rules = replace(sieve(recipe), test_size=HELD_OUT)
    rows = sift(path, form, rules, tokenizer, receipt, purpose="sft", processes=processes)
    chosen, kept = choose(rows, replay.rows(own), recipe.seed)
    if not kept:
        raise InvalidDataset(
            f"{path} is too small: none of its {receipt.rows} rows is held out to measure by.",
            fix="Give it more rows.",
        )
    return chosen, kept, receipt


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
    if form.purpose not in wanted:
        raise InvalidDataset(
            f"{path} holds {form.name} rows; --method {recipe.method} learns from "
            f"{' or '.join(wanted)} rows.",
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
        purpose=_encoded_as(form, recipe),
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


def _encoded_as(form: Form, recipe: Recipe) -> str:
    """Return what rows are encoded for: their own purpose, but prompts where answers are tried."""
    return "prompt" if "prompt" in PURPOSES[recipe.method] else form.purpose


def _method_for(purpose: str) -> str:
    return next(method for method, wanted in PURPOSES.items() if purpose in wanted)


def _digest(path: Path) -> str:
    """Return the sha256 of a dataset's file; of a folder, that of its files' `sha256sum` lines."""
    if path.is_file():
        return sha256_file(path)
    lines = [f"{sha256_file(file)}  {file.relative_to(path)}\n" for file in dataset_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# -- Arrow ----------------------------------------------------------------------------------------


class _Side:
    """One side of a dataset, written as it comes."""

    def __init__(self, path: Path, purpose: str) -> None:
        self._path = path
        columns = Features({**FEATURES[purpose], _PLACE: Value("string")})
        self._writer = ArrowWriter(features=columns, path=str(path), writer_batch_size=_BATCH)
        self._rows = 0

    def add(self, row: Sifted) -> None:
        self._writer.write({**row.example, _PLACE: row.row.place})
        self._rows += 1

    def close(self) -> Dataset | None:
        """Return the whole side; None where it is empty."""
        self._writer.finalize()
        return Dataset.from_file(str(self._path)) if self._rows else None


def _on_disk(rows: Iterable[Sifted], path: Path, purpose: str) -> Dataset | None:
    side = _Side(path, purpose)
    for row in rows:
        side.add(row)
    return _rows(side)


def _rows(side: _Side) -> Dataset | None:
    """Return a side without the places of its rows, which no trainer takes."""
    dataset = side.close()
    return dataset and dataset.remove_columns(_PLACE)
