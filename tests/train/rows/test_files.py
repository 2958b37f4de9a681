"""Files become records, each line of them accounted for."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import InvalidDataset
from train.rows.files import Record, read_records

ROWS = [{"prompt": f"你好 {n}", "completion": "ça va ✓"} for n in range(3)]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def as_jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_csv(delimiter: str) -> bytes:
    lines = [delimiter.join(ROWS[0]), *(delimiter.join(row.values()) for row in ROWS)]
    return "\n".join(lines).encode()


def as_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def contents(path: Path) -> list[dict[str, Any]]:
    return [record.content for record in read_records(path)]


KINDS = {
    "d.jsonl": as_jsonl(ROWS),
    "d.ndjson": as_jsonl(ROWS),
    "d.json": json.dumps(ROWS).encode(),
    "d.csv": as_csv(","),
    "d.tsv": as_csv("\t"),
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_holds_the_same_rows(tmp_path: Path, name: str, mark: bytes) -> None:
    (tmp_path / name).write_bytes(mark + KINDS[name])
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(mark + KINDS[name]))
    assert contents(tmp_path / name) == contents(tmp_path / f"{name}.gz") == ROWS


def test_parquet(tmp_path: Path) -> None:
    as_parquet(tmp_path / "d.parquet")
    assert contents(tmp_path / "d.parquet") == ROWS


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.jsonl").write_bytes(KINDS["d.jsonl"])
    (tmp_path / "a.csv").write_bytes(KINDS["d.csv"])
    (tmp_path / "notes.md").write_text("not rows")
    found = list(read_records(tmp_path))
    assert [(r.file, r.line) for r in found] == [
        *(("a.csv", line) for line in (2, 3, 4)),
        *(("b/two.jsonl", line) for line in (1, 2, 3)),
    ]


def test_one_object_a_line_is_jsonl_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_bytes(as_jsonl(ROWS))
    assert contents(tmp_path / "d.json") == ROWS


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv"])
def test_a_file_without_rows_has_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert contents(tmp_path / name) == []


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("d.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n', {2: "not whole JSON"}),
        ("d.jsonl", b'{"a": "x\xff"}\n{"a": 2}\n', {1: "0xff is not UTF-8"}),
        ("d.jsonl", b'{"a": NaN}\n', {1: "NaN is not a number"}),
        ("d.jsonl", b"7\n\n[1]\n", {1: "no object but int", 3: "no object but list"}),
        ("d.jsonl", b"[" * 100_000 + b"\n" + b'{"a": 2}\n', {1: "not whole JSON"}),
        ("d.json", b'[{"a": 1}, "b"]', {2: "no object but str"}),
        ("d.csv", b"a,b\n1\n2,3\n4,5,6\n", {2: "1 columns where", 4: "3 columns where"}),
        ("d.csv", b"a,b\n1,caf\xe9\n", {2: "0xe9 is not UTF-8"}),
    ],
)
def test_what_cannot_be_read_is_a_record_that_says_why(
    tmp_path: Path, name: str, content: bytes, wrong: dict[int, str]
) -> None:
    (tmp_path / name).write_bytes(content)
    found = {r.line: r.wrong for r in read_records(tmp_path / name) if r.wrong}
    assert found.keys() == wrong.keys()
    assert all(wrong[line] in found[line] for line in wrong)


def test_a_line_break_within_quotes_counts_as_a_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b'a,b\n"one\ntwo",2\nx\n3,4\n')
    assert [(r.line, bool(r.wrong)) for r in read_records(tmp_path / "d.csv")] == [
        (2, False), (4, True), (5, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.json", b'[{"a": 1}, {"a": ', "no JSON any more after row 1"),
        ("d.json.gz", gzip.compress(b'[{"a": 1}]')[:-9], "cannot be read"),
        ("d.jsonl.gz", b"not gzip", "cannot be read"),
        ("d.parquet", b"PAR1", "no Parquet any more after row 0"),
        ("d.csv", b"a,a\n1,2\n", "two columns have one name"),
        ("d.xlsx", b"", "of no known kind"),
    ],
)
def test_what_is_no_such_file_is_refused(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidDataset, match=said) as refused:
        list(read_records(tmp_path / name))
    assert refused.value.fix


@pytest.mark.parametrize(("make", "said"), [(False, "No such file"), (True, "holds no dataset")])
def test_nothing_there_is_refused(tmp_path: Path, make: bool, said: str) -> None:
    if make:
        (tmp_path / "none").mkdir()
    with pytest.raises(InvalidDataset, match=said):
        list(read_records(tmp_path / "none"))


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_csv_keeps_every_text(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "d.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "category"), *rows])
    assert [tuple(content.values()) for content in contents(path)] == rows


@given(content=st.binary(max_size=200), name=st.sampled_from([*KINDS, "d.jsonl.gz"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_any_bytes_are_records_or_an_error_of_ours(
    tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    try:
        records = list(read_records(tmp_path / name))
    except InvalidDataset:
        return
    assert all(isinstance(record, Record) for record in records)
    assert sorted({record.line for record in records}) == [record.line for record in records]
