"""`adapters data check` by its command line: the receipt, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.cli import main


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = [{"prompt": f"question {n}", "completion": "yes"} for n in range(20)]
    rows += [rows[0], {"prompt": "who", "completion": "I am {{name}}"}, {"prompt": "long " * 60}]
    rows[-1]["completion"] = "no"
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", *arguments])
    return int(ended.value.code or 0)


def test_json_holds_counts_lines_and_histograms(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(dataset), "--base", "tiny", "--max-length", "60", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["kept_rows"], found["form"]) == (23, 21, "prompt-completion")
    assert found["left_out"] == {
        "exact_duplicate": {"d.jsonl": "21"},
        "masked": {"d.jsonl": "23"},
    }
    assert found["flags"]["placeholder"] == {"d.jsonl": "22"}
    assert found["labels"]["yes"] == 20


def test_the_table_and_the_masks(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(dataset), "--base", "tiny", "--show-masks", "1") == 0
    shown = capsys.readouterr().out
    assert "the same as an earlier row" in shown
    assert "question 0<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧" in shown


def test_more_lost_than_allowed_exits_with_4(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(dataset), "--base", "tiny", "--max-length", "60", "--max-masked", "0.01"]
    assert run(*command) == 4
    printed = capsys.readouterr()
    assert "--max-masked allows 1.0%" in printed.err
    assert "longer than max_length" in printed.out


def test_without_a_base_no_tokens_are_counted(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(dataset), "--json") == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == {}


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "none.jsonl")) == 4
    assert "No such file" in capsys.readouterr().err
