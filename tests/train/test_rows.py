"""Files become rows, or an error that names the line and the fix."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import InvalidDataset
from train.rows import read_rows

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_messages(tmp_path: Path) -> None:
    form, rows = read_rows(jsonl(tmp_path / "d.jsonl", {"messages": CHAT}))
    assert form == "messages"
    assert [row.chat for row in rows] == [CHAT]


def test_alpaca_joins_instruction_and_input_and_keeps_the_system_prompt(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    record = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief"}
    path.write_text(json.dumps([record, record | {"input": "", "system": None}]), encoding="utf-8")
    form, rows = read_rows(path)
    assert form == "alpaca"
    assert rows[0].chat == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Add\n1 2"},
        {"role": "assistant", "content": "3"},
    ]
    assert [turn["content"] for turn in rows[1].chat] == ["Add", "3"]


def test_prompt_completion_as_text_and_as_messages(tmp_path: Path) -> None:
    rows = jsonl(
        tmp_path / "d.jsonl",
        {"prompt": "hi", "completion": "hello"},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
    )
    form, read = read_rows(rows)
    assert form == "prompt-completion"
    assert [row.chat for row in read] == [CHAT, CHAT]


@given(records=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_csv_with_named_columns_keeps_every_text(
    tmp_path: Path, records: list[tuple[str, str]]
) -> None:
    path = tmp_path / "d.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "category"), *records])
    _, rows = read_rows(path, prompt_column="text", completion_column="category")
    assert [tuple(turn["content"] for turn in row.chat) for row in rows] == records


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl", b"", "no rows"),
        ("d.json", b"", "no rows"),
        ("d.csv", b"prompt,completion\n", "no rows"),
        ("d.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "comp', "line 2"),
        ("d.json", b'{"prompt": "a"}', "no list of rows"),
        ("d.json", b"[1]", "row 1"),
        ("d.csv", b"prompt,completion\na\n", "line 2"),
        ("d.csv", b"prompt,completion\na,b,c\n", "line 2"),
        ("d.csv", b"prompt,completion\na,caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("d.parquet", b"PAR1", "of no known kind"),
        ("d.jsonl", b'{"question": "a"}\n', "--prompt-column"),
        ("d.jsonl", b'{"prompt": "a", "completion": 7}\n', "row 1"),
        ("d.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', "row 2"),
        ("d.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}\n', "assistant"),
        ("d.jsonl", b'{"messages": [{"role": "bot", "content": "a"}]}\n', "role"),
        ("d.jsonl", b'{"messages": []}\n', "turns"),
    ],
)
def test_bad_input_names_the_place_and_the_fix(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidDataset) as refused:
        read_rows(tmp_path / name)
    assert said in str(refused.value)
    assert refused.value.fix


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,category\na,b\n")
    with pytest.raises(InvalidDataset, match=r"text, category.*Did you mean category"):
        read_rows(path, prompt_column="text", completion_column="categry")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="No such file"):
        read_rows(tmp_path / "none.jsonl")
