"""The receipt adds up, names lines, and refuses a dataset of which too much is lost."""

from __future__ import annotations

import json

import pytest

from adapters.errors import InvalidDataset
from train.rows.receipt import REASONS, Receipt, to_bytes


def receipt(kept: int = 10, cut: int = 0, **lost: int) -> Receipt:
    made = Receipt(form="alpaca", kept_rows=kept, train_rows=kept, rows=kept)
    for reason, count in lost.items():
        for line in range(1, count + 1):
            made.rows += 1
            made.leave_out(reason, "d.jsonl", line, "no text" if reason == "malformed" else "")
    made.cut_rows = cut
    return made


def test_it_holds_lines_as_spans_and_counts_that_add_up() -> None:
    made = receipt(exact_duplicate=3, empty=1, malformed=2)
    details = json.loads(to_bytes(made.details()))
    assert details["left_out"]["exact_duplicate"] == {"d.jsonl": "1-3"}
    assert details["malformed"] == ["d.jsonl:1: no text", "d.jsonl:2: no text"]
    assert details["rows"] == 16
    assert details["rows"] == details["kept_rows"] + sum(details[f"{r}_rows"] for r in REASONS)


def test_its_digest_is_of_its_content() -> None:
    assert receipt(empty=1).digest() == receipt(empty=1).digest() != receipt(empty=2).digest()


@pytest.mark.parametrize(
    ("made", "limit", "flag"),
    [
        (receipt(8, too_long=2, cut=2), {"max_cut": 0.1}, "--max-cut"),
        (receipt(9, malformed=1), {"max_malformed": 0.0}, "--max-malformed"),
        (receipt(8, masked=2), {"max_masked": 0.15}, "--max-masked"),
    ],
)
def test_more_lost_than_allowed_is_refused_with_the_flag(
    made: Receipt, limit: dict[str, float], flag: str
) -> None:
    with pytest.raises(InvalidDataset, match=flag) as refused:
        made.check(**limit)
    assert "d.jsonl:1" in refused.value.message
    made.check(**dict.fromkeys(limit, 0.2))
    made.check(**dict.fromkeys(limit))


def test_nothing_left_to_train_on_says_why() -> None:
    with pytest.raises(InvalidDataset, match=r"None of 1 rows .* 1 empty"):
        receipt(0, empty=1).check()


def test_labels_are_counted_while_they_are_few_and_short() -> None:
    few, long, many = Receipt(), Receipt(), Receipt()
    for answer in ("yes", "no", "yes"):
        few.count_answer(answer)
    long.count_answer("a" * 100)
    for number in range(500):
        many.count_answer(str(number))
    assert few.labels == {"yes": 2, "no": 1}
    assert long.labels is many.labels is None
