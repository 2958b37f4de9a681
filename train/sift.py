"""A dataset sifted: each row read, held against those before it, tokenised and given its side.

Streams. What stays in memory of a row is 40 bytes, and under near duplicates its sketch of about
2 KB. Rows are tokenised by several processes where there are many.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from adapters.errors import InvalidDataset
from train.rows import duplicates, flags
from train.rows.files import Record, read_records
from train.rows.forms import Form, Row, detect_form
from train.rows.receipt import Receipt
from train.tokens import IGNORED, Encoded, encode

Side = Literal["train", "eval"]
_BATCH = 256
_MANY = 20_000
"""Rows from which on starting processes pays."""


@dataclass(frozen=True, slots=True)
class Sieve:
    """What is left out and what is held out."""

    test_size: float = 0.05
    max_length: int = 1024
    too_long: Literal["cut", "drop"] = "cut"
    near_duplicates: Literal["keep", "drop", "ignore"] = "keep"
    near_duplicate_threshold: float = 0.9


@dataclass(frozen=True, slots=True)
class Sifted:
    """A row that is trained on or held out."""

    row: Row
    side: Side
    example: dict[str, Any]


def sift(
    dataset: Path,
    form: Form,
    sieve: Sieve,
    tokenizer: Any | None,
    receipt: Receipt,
    *,
    purpose: str = "",
    held_out: frozenset[bytes] | None = None,
    processes: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterator[Sifted]:
    """Yield the rows that are kept, in their order; count every row in the receipt.

    `purpose`: what the rows are to train (`Form.purpose`), where it is another than their own.
    `tokenizer`: None reads and counts without tokens; then no row is too long. `held_out`: the
    prompts (`duplicates.prompt_key`) of a validation dataset of its own; then no row is held out
    here and rows with such a prompt are flagged as leaks. `progress`: told the rows read so far.

    Raises:
        InvalidDataset: see `files.read_records`.
        Rejected: see `tokens.encode`.
    """
    receipt.form = form.name
    rows = _parsed(read_records(dataset), form, receipt, progress)
    chosen = _distinct(rows, sieve, receipt, held_out)
    if tokenizer is None:
        for row, side in chosen:
            receipt.kept_rows += 1
            yield _given(row, side, {}, receipt)
        return
    encoder = _Encoder(tokenizer, purpose or form.purpose, sieve.max_length)
    for row, side, encoded in _tokenised(chosen, encoder, processes):
        if isinstance(encoded, str):
            receipt.leave_out("malformed", row.file, row.line, encoded)
        elif _count(encoded, row, sieve, receipt):
            if side == "train":
                receipt.train_tokens += sum(min(n, sieve.max_length) for n in encoded.lengths)
            yield _given(row, side, encoded.example, receipt)


def _given(row: Row, side: Side, example: dict[str, Any], receipt: Receipt) -> Sifted:
    if side == "train":
        receipt.train_rows += 1
    else:
        receipt.eval_rows += 1
    return Sifted(row, side, example)


def find_form(dataset: Path, **said: str | None) -> Form:
    """Return the form of a dataset by its first readable record; `said`: see `detect_form`.

    Raises:
        InvalidDataset: it holds no rows, or no form fits them.
    """
    first = next((r.content for r in read_records(dataset) if not r.wrong), None)
    if first is None:
        raise InvalidDataset(f"{dataset} holds no rows.", fix="Give it at least two.")
    try:
        return detect_form(first, **said)
    except InvalidDataset as error:
        raise InvalidDataset(f"{dataset}: {error.message}", fix=error.fix) from error


def read_rows(dataset: Path, **said: str | None) -> list[Row]:
    """Return all rows of a dataset as they are; `said`: see `detect_form`.

    Raises:
        InvalidDataset: it holds none, or one of them is malformed.
    """
    receipt = Receipt()
    rows = list(_parsed(read_records(dataset), find_form(dataset, **said), receipt, lambda _: None))
    receipt.train_rows = len(rows)
    receipt.check(max_malformed=0.0)
    return rows


def _parsed(
    records: Iterable[Record], form: Form, receipt: Receipt, progress: Callable[[int], None]
) -> Iterator[Row]:
    for record in records:
        receipt.rows += 1
        progress(receipt.rows)
        wrong = record.wrong
        if not wrong:
            try:
                row = form.row(record.file, record.line, record.content)
            except ValueError as error:
                wrong = str(error)
        if wrong:
            receipt.leave_out("malformed", record.file, record.line, wrong)
        elif form.purpose != "prompt" and not _says_something(row):
            receipt.leave_out("empty", row.file, row.line)
        else:
            yield row


def _says_something(row: Row) -> bool:
    answers = [row.answer] if row.rejected is None else [row.answer, row.rejected]
    return all(
        any(turn["content"].strip() or turn.get("tool_calls") for turn in turns)
        for turns in answers
    )


def _distinct(
    rows: Iterable[Row], sieve: Sieve, receipt: Receipt, held_out: frozenset[bytes] | None
) -> Iterator[tuple[Row, Side]]:
    """Leave out rows that are there twice; flag what is to be looked at; choose the side.

    The side depends on the prompt alone: rows that are added later move none, and rows of one
    prompt keep together.
    """
    seen: set[bytes] = set()
    answers: dict[bytes, bytes] = {}
    near = None
    if sieve.near_duplicates != "ignore":
        near = duplicates.NearDuplicates(sieve.near_duplicate_threshold)
    sides: list[Side] = []
    for row in rows:
        key, asked = duplicates.row_key(row), duplicates.prompt_key(row)
        if key in seen:
            receipt.leave_out("exact_duplicate", row.file, row.line)
            continue
        seen.add(key)
        side: Side = "train"
        if held_out is None and duplicates.fraction(asked) < sieve.test_size:
            side = "eval"
        if near:
            _, twin = near.find(row)
            sides.append(side)
            if twin is not None and sieve.near_duplicates == "drop":
                receipt.leave_out("near_duplicate", row.file, row.line)
                continue
            if twin is not None:
                receipt.flag("near_duplicate", row.file, row.line)
                if sides[twin] != side:
                    receipt.flag("leak", row.file, row.line)
        if held_out is not None and asked in held_out:
            receipt.flag("leak", row.file, row.line)
        if answers.setdefault(asked, key[:8]) != key[:8]:
            receipt.flag("conflict", row.file, row.line)
        _look_at(row, receipt)
        yield row, side


def _look_at(row: Row, receipt: Receipt) -> None:
    turns = [*row.chat, *(row.rejected or [])]
    text = duplicates.said(turns)
    for kind in flags.secrets(text):
        receipt.flag("secret", row.file, row.line, kind)
    if found := flags.placeholders(text):
        receipt.flag("placeholder", row.file, row.line)
        receipt.flagged.update(f"placeholder: {name}" for name in found)
    if row.answer:
        receipt.count_answer(row.answer[-1]["content"].strip())
    receipt.languages[flags.language(text)] += 1


def _count(encoded: Encoded, row: Row, sieve: Sieve, receipt: Receipt) -> bool:
    """Count a row's tokens; say whether it is trained on or held out."""
    receipt.count_tokens(encoded.length)
    if encoded.length <= sieve.max_length:
        labels = encoded.example.get("labels")
        if labels is not None and all(label == IGNORED for label in labels):
            receipt.leave_out("masked", row.file, row.line)
            return False
        receipt.kept_rows += 1
        return True
    if encoded.speech >= sieve.max_length:
        receipt.leave_out("masked", row.file, row.line)
        return False
    receipt.leave_out("too_long", row.file, row.line)
    if sieve.too_long == "drop":
        return False
    receipt.cut_rows += 1
    receipt.cut_tokens += sum(max(0, n - sieve.max_length) for n in encoded.lengths)
    return True


# -- tokens, by several processes -----------------------------------------------------------------

_Chosen = tuple[Row, Side]
_Tried = tuple[Row, Side, Encoded | str]
"""A row, and its tokens or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class _Encoder:
    tokenizer: Any
    purpose: str
    max_length: int

    def __call__(self, chosen: list[_Chosen]) -> list[_Tried]:
        return [(row, side, self._try(row)) for row, side in chosen]

    def _try(self, row: Row) -> Encoded | str:
        try:
            return encode(row, self.tokenizer, purpose=self.purpose, max_length=self.max_length)
        except ValueError as error:
            return str(error)


def _tokenised(rows: Iterator[_Chosen], encoder: _Encoder, processes: int) -> Iterator[_Tried]:
    """Tokenise in order; no more than a few batches are under way at once."""
    first = list(itertools.islice(rows, _MANY)) if processes > 1 else []
    rows = itertools.chain(first, rows)
    batches = iter(lambda: list(itertools.islice(rows, _BATCH)), [])
    if len(first) < _MANY:
        for batch in batches:
            yield from encoder(batch)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # they fork
    with ProcessPoolExecutor(processes, get_context("fork"), _start_worker, (encoder,)) as pool:
        under_way: deque[Future[list[_Tried]]] = deque()
        for batch in batches:
            under_way.append(pool.submit(_run_worker, batch))
            if len(under_way) > 4 * processes:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


_worker: _Encoder | None = None
"""Of a process that tokenises; inherited, as pickling a tokenizer for each batch would be slow."""


def _start_worker(encoder: _Encoder) -> None:
    global _worker
    _worker = encoder


def _run_worker(batch: list[_Chosen]) -> list[_Tried]:
    assert _worker
    return _worker(batch)
