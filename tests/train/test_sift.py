"""Every row of a dataset goes somewhere, and the receipt says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from adapters import bases
from adapters.errors import InvalidDataset
from train import sift as sifting
from train.rows.receipt import REASONS, Receipt
from train.sift import Sieve, Sifted, find_form, read_rows, sift

TINY = AutoTokenizer.from_pretrained(bases.resolve("tiny").path)
LONG = "a long way to go " * 30
LOST = "I ordered a card a week ago and it is not here"
SECRET = "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"


def pair(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(path: Path, tokenizer: Any = TINY, **options: Any) -> tuple[list[Sifted], Receipt]:
    receipt = Receipt()
    processes = options.pop("processes", 1)
    held_out = options.pop("held_out", None)
    sieve = Sieve(**{"max_length": 64, "test_size": 0.3, **options})
    rows = list(
        sift(
            path, find_form(path), sieve, tokenizer, receipt, processes=processes, held_out=held_out
        )
    )
    return rows, receipt


BAD = [
    pair("first", "one"),
    pair("second", "two"),
    pair("first", "one"),  # 3: an exact duplicate
    pair(LOST, "It will be there soon."),
    pair(LOST + "!", "It will be there soon."),  # 5: a near one
    pair("third", "  "),  # 6: empty
    pair("fourth", LONG),  # 7: too long
    pair(LONG, "five"),  # 8: masked
    "{",  # 9
    pair("sixth", 7),  # 10: malformed
    "[]",  # 11
    "",
    pair("first", "another"),  # 13: a conflict
    pair("tell me", SECRET),  # 14
    pair("who are you", "I am {{name}}"),  # 15
]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_with_every_kind_of_row(
    tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sifting, "_MANY", 2)
    monkeypatch.setattr(sifting, "_BATCH", 3)
    rows, receipt = run(
        write(tmp_path / "d.jsonl", BAD), near_duplicates="drop", processes=processes,
        near_duplicate_threshold=0.7,
    )  # fmt: skip
    details = receipt.details()
    assert details["left_out"] == {
        "exact_duplicate": {"d.jsonl": "3"},
        "near_duplicate": {"d.jsonl": "5"},
        "empty": {"d.jsonl": "6"},
        "too_long": {"d.jsonl": "7"},
        "masked": {"d.jsonl": "8"},
        "malformed": {"d.jsonl": "9-11"},
    }
    assert details["flags"] == {
        "conflict": {"d.jsonl": "13"},
        "placeholder": {"d.jsonl": "15"},
        "secret": {"d.jsonl": "14"},
    }
    assert details["flagged"] == {"secret: GitHub Token": 1, "placeholder: {{name}}": 1}
    assert SECRET not in json.dumps(details)
    assert [row.row.line for row in rows] == [1, 2, 4, 7, 13, 14, 15]
    assert (receipt.rows, receipt.kept_rows, receipt.cut_rows) == (14, 6, 1)
    assert receipt.cut_tokens > 100


def test_near_duplicates_are_kept_and_flagged_unless_asked(tmp_path: Path) -> None:
    rows, receipt = run(write(tmp_path / "d.jsonl", BAD[3:5]), near_duplicate_threshold=0.7)
    assert len(rows) == 2
    assert receipt.details()["flags"]["near_duplicate"] == {"d.jsonl": "2"}


def test_rows_too_long_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    rows, receipt = run(write(tmp_path / "d.jsonl", BAD[:7]), too_long="drop")
    assert 7 not in [row.row.line for row in rows]
    assert (receipt.left_out("too_long"), receipt.cut_rows) == (1, 0)


TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
ANY_ROW = st.one_of(
    st.builds(pair, TEXT, TEXT),
    st.builds(pair, st.just("same"), st.sampled_from(["a", "b", ""])),
    st.builds(pair, st.one_of(TEXT, st.none(), st.integers()), TEXT),
    st.sampled_from(["{", "7", "[]", "{}", "null", ""]),
)


@given(rows=st.lists(ANY_ROW, max_size=20), drop=st.booleans())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_kept_and_all_reasons_are_rows_in(tmp_path: Path, rows: list[Any], drop: bool) -> None:
    path = write(tmp_path / "d.jsonl", [pair("one", "row"), *rows])
    kept, receipt = run(path, near_duplicates="drop" if drop else "keep", too_long="cut")
    held = sum(bool(row) for row in rows) + 1
    assert receipt.rows == held
    assert held == receipt.kept_rows + sum(receipt.left_out(reason) for reason in REASONS)
    assert len(kept) == receipt.train_rows + receipt.eval_rows
    assert len(kept) == receipt.kept_rows + receipt.cut_rows
    assert all(len(row.example["input_ids"]) <= 64 for row in kept)
    lines = [line for files in receipt.places.values() for each in files.values() for line in each]
    whole = [row.row.line for row in kept if row.row.line not in lines]
    assert sorted([*lines, *whole]) == sorted(set(lines) | set(whole))


def test_adding_rows_moves_none_between_the_sides(tmp_path: Path) -> None:
    rows = [pair(f"question {number}", "yes") for number in range(200)]
    few, _ = run(write(tmp_path / "few.jsonl", rows[:100]), near_duplicates="ignore")
    more, _ = run(write(tmp_path / "more.jsonl", rows[::-1]), near_duplicates="ignore")
    sides = {row.row.prompt[0]["content"]: row.side for row in more}
    assert all(sides[row.row.prompt[0]["content"]] == row.side for row in few)
    assert 40 <= list(sides.values()).count("eval") <= 80


def test_rows_of_one_prompt_keep_together(tmp_path: Path) -> None:
    rows = [pair(f"question {number % 20}", f"answer {number}") for number in range(100)]
    kept, _ = run(write(tmp_path / "d.jsonl", rows))
    sides: dict[str, set[str]] = {}
    for row in kept:
        sides.setdefault(row.row.prompt[0]["content"], set()).add(row.side)
    assert all(len(found) == 1 for found in sides.values())
    assert len({side for found in sides.values() for side in found}) == 2


def test_training_rows_whose_prompt_is_validated_on_are_flagged(tmp_path: Path) -> None:
    from train.rows.duplicates import prompt_key

    rows = read_rows(write(tmp_path / "d.jsonl", [pair("a", "1"), pair("b", "2")]))
    kept, receipt = run(tmp_path / "d.jsonl", held_out=frozenset({prompt_key(rows[1])}))
    assert [row.side for row in kept] == ["train", "train"]
    assert receipt.details()["flags"]["leak"] == {"d.jsonl": "2"}


def test_a_chat_that_the_template_refuses_is_malformed(tmp_path: Path) -> None:
    strict = AutoTokenizer.from_pretrained(bases.resolve("tiny").path)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    _, receipt = run(write(tmp_path / "d.jsonl", [pair("a", "b")]), strict)
    assert "roles must alternate" in receipt.malformed[0]


def test_without_a_base_rows_are_counted_and_no_tokens(tmp_path: Path) -> None:
    _, receipt = run(write(tmp_path / "d.jsonl", BAD), None)
    assert (receipt.longest_tokens, receipt.left_out("too_long")) == (0, 0)
    assert receipt.rows == 14


def test_reading_rows_as_they_are_refuses_a_malformed_one(tmp_path: Path) -> None:
    assert len(read_rows(write(tmp_path / "d.jsonl", BAD[:2]))) == 2
    with pytest.raises(InvalidDataset, match=r"d\.jsonl:9"):
        read_rows(write(tmp_path / "d.jsonl", BAD))


def test_a_dataset_without_rows(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="no rows"):
        find_form(write(tmp_path / "d.jsonl", ["{"]))
