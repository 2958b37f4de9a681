"""The benchmark that a GPU runs in the shape of an 8B base, whole, on a toy and this CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import trainer


def test_ours_and_a_plain_script_learn_the_same_packed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    size = "--shapes toy --steps 3 --batch 2 --length 64 --rounds 1"
    monkeypatch.setattr("sys.argv", ["trainer", "gpu", *size.split(), "--out", str(out)])
    trainer.main()
    assert "of the throughput" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["machine"]["cpu"]
    assert found["settings"]["packing"]
    (ours,), (plain,) = found["rounds"]["ours"], found["rounds"]["plain"]
    assert len(ours["losses"]) == len(ours["seconds"]) == 3
    # TRL has a row's last newline learnt, after the token that ends the turn; we do not.
    assert ours["losses"] == pytest.approx(plain["losses"], abs=0.03)
    assert ours["tokens"] == plain["tokens"] > 0
    assert found["peak_ratio"] > 0
    assert found["throughput_ratio"] > 0
