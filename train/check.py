"""`adapters data check`: a dataset's receipt, as a table, and its masks as people see them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from adapters import bases
from train.before import counting, load_tokenizer
from train.prepare import find, sieve
from train.recipe import Recipe
from train.rows.files import fetch_dataset
from train.rows.forms import Row
from train.rows.receipt import FLAGS, REASONS, Receipt, spans
from train.sift import sift
from train.tokens import speech

_GREEN, _BRACKETS = ("\033[1;32m", "\033[0m"), ("⟦", "⟧")
_MOST_LINES = 60
"""Characters of a row's line numbers that a table shows."""


def check_rows(
    dataset: str,
    recipe: Recipe,
    *,
    base: str | None = None,
    revision: str | None = None,
    show_masks: int = 0,
    processes: int = 1,
) -> tuple[Receipt, list[str]]:
    """Return a dataset's receipt, and the masks of its first rows as text with colours.

    Without a base no tokens are counted, so no row is too long.

    Raises:
        InvalidDataset, NotFound, Unavailable, Rejected: see `train.prepare.prepare`,
            `adapters.bases.resolve`.
    """
    path, _ = fetch_dataset(dataset, revision=revision)
    form = find(path, recipe)
    tokenizer = load_tokenizer(bases.resolve(base).path) if base else None
    receipt = Receipt()
    masks: list[str] = []
    with counting("row", "reading") as progress:
        for row in sift(
            path, form, sieve(recipe), tokenizer, receipt, processes=processes, progress=progress
        ):
            if tokenizer and len(masks) < show_masks and row.row.answer:
                masks.append(masked(row.row, tokenizer))
    return receipt, masks


def masked(row: Row, tokenizer: Any) -> str:
    """Return a row as the tokens that are trained on; those that the loss falls on stand out.

    In green on a terminal, in ⟦brackets⟧ elsewhere.
    """
    ids, spoken = speech(row.chat, tokenizer, row.tools)
    opening, closing = _GREEN if sys.stdout.isatty() else _BRACKETS
    parts = [f"{row.place}  ({len(ids)} tokens, {sum(spoken)} learnt)\n"]
    for learnt, tokens in groupby(zip(spoken, ids, strict=True), key=itemgetter(0)):
        text = tokenizer.decode([token for _, token in tokens])
        parts.append(f"{opening}{text}{closing}" if learnt else text)
    return "".join(parts)


def lines(receipt: Receipt) -> Iterator[tuple[object, str, str]]:
    """Yield a receipt as rows of a table: how many, what, and where."""
    counts = receipt.as_json()
    yield counts["rows"], f"read as {receipt.form}", ""
    yield counts["kept_rows"], "kept as they are", ""
    for reason, meaning in REASONS.items():
        if counts[f"{reason}_rows"]:
            yield counts[f"{reason}_rows"], meaning, _where(receipt.places[reason])
    if receipt.cut_rows:
        yield receipt.cut_rows, f"of those are cut, {receipt.cut_tokens} tokens lost at the end", ""
    yield counts["train_rows"], "to train on", _tokens(receipt)
    yield counts["eval_rows"], "held out", ""
    for flag, meaning in FLAGS.items():
        if flag in receipt.flags:
            yield counts[f"{flag}_flags"], f"! {meaning}", _where(receipt.flags[flag])
    for what, count in receipt.flagged.most_common(5):
        yield count, f"! {what}", ""
    for wrong in receipt.malformed[:5]:
        yield "", "malformed", wrong
    for title, histogram in _histograms(receipt):
        yield "", title, histogram


def _histograms(receipt: Receipt) -> Iterator[tuple[str, str]]:
    if receipt.lengths:
        sizes = sorted(receipt.lengths.items())
        yield "tokens a row", ", ".join(f"≤{most}: {count}" for most, count in sizes)
    if receipt.labels and len(receipt.labels) < receipt.rows / 2:
        common = [f"{label!r}: {count}" for label, count in receipt.labels.most_common(5)]
        yield f"{len(receipt.labels)} answers", ", ".join(common)
    if receipt.languages:
        known = [f"{code}: {count}" for code, count in receipt.languages.most_common(5)]
        yield "languages", ", ".join(known)


def _tokens(receipt: Receipt) -> str:
    if not receipt.train_tokens:
        return ""
    return f"{receipt.train_tokens} tokens, the longest {receipt.longest_tokens}"


def _where(places: Mapping[str, list[int]]) -> str:
    alone = len(places) == 1
    text = "; ".join(
        spans(numbers) if alone else f"{file}:{spans(numbers)}" for file, numbers in places.items()
    )
    return text if len(text) <= _MOST_LINES else f"{text[:_MOST_LINES]} …"
