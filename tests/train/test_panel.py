"""What is seen of a run while it goes: a panel on a terminal, ten lines elsewhere."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from adapters.demo.task import split
from train import panel
from train.panel import Panel

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def step(shown: Panel, number: int, steps: int = 40, **logs: float) -> None:
    state = SimpleNamespace(global_step=number, max_steps=steps, is_world_process_zero=True)
    shown.on_log(None, state, None, logs={"loss": 2.0 / number, **logs})


def text(shown: Panel) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(shown.render())
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_elsewhere_there_are_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Panel("training") as shown:
        for number in range(1, 41):
            step(shown, number)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert (lines[0], lines[-1]) == ("step 4 of 40, loss 0.500", "step 40 of 40, loss 0.050")


def test_a_short_run_has_a_line_a_step_and_one_that_goes_on_begins_where_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = Panel("training")
    state = SimpleNamespace(global_step=2, max_steps=4, is_world_process_zero=True)
    shown.on_train_begin(None, state, None)
    for number in (3, 4):
        step(shown, number, 4)
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["step 3", "step 4"]


def test_it_shows_losses_rate_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 200, 2))  # two seconds a step
    monkeypatch.setattr(panel.time, "monotonic", lambda: next(clock))
    shown = Panel("training support")
    assert "ETA –" in text(shown)
    for number in range(1, 11):
        step(shown, number, learning_rate=2e-4, num_tokens=500 * number)
    shown.on_log(
        None,
        SimpleNamespace(global_step=10, max_steps=40, is_world_process_zero=True),
        None,
        logs={"eval_loss": 1.25},
    )
    seen = text(shown)
    for part in (
        "training support", "step 10 of 40", "ETA 1:00", "loss 0.2000", "eval loss 1.2500",
        "learning rate 2.00e-04", "tokens/s 250", "memory", "GiB",
    ):  # fmt: skip
        assert part in seen
    assert all(len(line) <= 100 for line in seen.splitlines())


def test_other_processes_of_a_run_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Panel("training")
    state = SimpleNamespace(global_step=1, max_steps=1, is_world_process_zero=False)
    shown.on_log(None, state, None, logs={"loss": 1.0})
    assert capsys.readouterr().err == ""


def test_after_ctrl_c_the_terminal_is_as_it_was(tmp_path: Path) -> None:
    dataset = tmp_path / "support.jsonl"
    dataset.write_text("".join(json.dumps(each.row()) + "\n" for each in split(96, 8)[0]))
    command = [
        sys.executable, "-P", "-c", "from adapters.cli import main; main()", "train", str(dataset),
        "--base", "tiny", "--name", "support", "--tuner", "lora", "--max-steps", "100000",
        "--registry", str(tmp_path / "registry"),
    ]  # fmt: skip
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    seen = _until(ours, "ETA 0:", "ETA 1")
    assert HIDE in seen
    assert "training support" in seen
    child.send_signal(signal.SIGINT)
    rest = _until(ours)
    os.close(ours)
    assert child.wait(60) == 130
    whole = seen + rest
    assert whole.count(HIDE) == whole.count(SHOW)
    assert whole.rindex(SHOW) > whole.rindex(HIDE)
    assert "╭" not in whole[whole.rindex(SHOW) :], "the panel is gone"
    assert "\x1b[?1049h" not in whole, "what was on the screen stays there"
    assert "Traceback" not in whole
    assert child.stdout
    assert child.stdout.read() == b""


def _until(terminal: int, *parts: str) -> str:
    """Read what a terminal is told until it holds one of the parts; without any, to the end."""
    seen, deadline = "", time.monotonic() + 120
    while time.monotonic() < deadline and not any(part in seen for part in parts):
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:  # the other side is closed
            break
        seen += chunk.decode(errors="replace")
    return seen
