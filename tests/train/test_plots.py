"""A run's curve: what is kept of the log, and the same bytes for the same history."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from adapters.files import ALLOWED
from train.plots import points, write_curve

HISTORY: list[dict[str, Any]] = [
    *(
        {"step": step, "epoch": step / 30, "loss": 3 / step, "learning_rate": 1e-3, "num_tokens": 9}
        for step in range(1, 61)
    ),
    {"step": 60, "epoch": 2.0, "eval_loss": 0.5, "eval_runtime": 1.25},
    {"step": 60, "epoch": 2.0, "train_loss": 0.2, "train_runtime": 12.5},
]


def test_a_step_is_one_point_without_times_or_speeds() -> None:
    curve = points(HISTORY)
    assert len(curve) == 60
    assert curve[0] == {"step": 1, "epoch": 1 / 30, "loss": 3.0, "learning_rate": 1e-3}
    assert curve[-1]["eval_loss"] == 0.5
    assert "train_runtime" not in curve[-1]


def test_the_files_are_those_a_version_may_hold(tmp_path: Path) -> None:
    write_curve(HISTORY, tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written.keys() == {"loss.csv", "loss.svg", "loss.png"}
    assert written.keys() <= ALLOWED
    rows = list(csv.DictReader((tmp_path / "loss.csv").open()))
    assert [float(row["loss"]) for row in rows] == [3 / step for step in range(1, 61)]
    assert (rows[0]["eval_loss"], rows[-1]["eval_loss"]) == ("", "0.5")
    assert written["loss.png"].startswith(b"\x89PNG")
    assert b"<svg" in written["loss.svg"]


def test_another_process_another_day_and_another_matplotlibrc_draw_the_same_bytes(
    tmp_path: Path,
) -> None:
    (tmp_path / "matplotlibrc").write_text("figure.facecolor: red\nsavefig.dpi: 300\n")
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    write_curve(HISTORY, here)
    script = (
        "import sys, pathlib; from tests.train.test_plots import HISTORY, write_curve;"
        "write_curve(HISTORY, pathlib.Path(sys.argv[1]))"
    )
    settings = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "SOURCE_DATE_EPOCH": "0"}
    subprocess.run(
        [sys.executable, "-c", script, str(there)],
        env=os.environ | settings,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    for name in ("loss.csv", "loss.svg", "loss.png"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_rewards_have_a_panel_of_their_own(tmp_path: Path) -> None:
    rewarded = [{"step": s, "loss": 0.1, "reward": s / 9, "learning_rate": 1e-4} for s in (1, 2, 3)]
    write_curve(rewarded, tmp_path)
    assert (tmp_path / "loss.csv").read_text().splitlines()[0] == "step,loss,learning_rate,reward"
    labels = [line for line in (tmp_path / "loss.svg").read_text().splitlines() if "<!--" in line]
    assert "<!-- reward -->" in "".join(labels)


def test_a_run_that_logged_nothing_has_no_curve(tmp_path: Path) -> None:
    write_curve([{"step": 0, "train_runtime": 1.0}], tmp_path)
    assert list(tmp_path.iterdir()) == []
