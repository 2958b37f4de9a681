"""Several real processes at one run, over gloo: one adapter, the same as one process learns."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters.files import WEIGHTS_FILE
from adapters.registry import Registry
from tests.train.runs import support_rows
from tests.train.test_resume import wait_for

ROOT = Path(__file__).parents[2]
RECIPE = (
    "--base", "tiny", "--name", "support", "--r", "4", "--learning-rate", "3e-3",
    "--test-size", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return support_rows(tmp_path_factory.mktemp("dataset"), 48)


def trained(home: Path, dataset: str, *flags: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Run the command to its end; return the losses it told of and the adapter's weights."""
    said = home.parent / f"{home.name}.txt"
    process = started(home, said, "train", dataset, *RECIPE, *flags)
    process.wait(300)
    assert process.returncode == 0, said.read_text()
    losses = re.findall(r"step \d+ of \d+, loss (\S+)", said.read_text())
    version = Registry.open(home).resolve("support")
    return [float(loss) for loss in losses], load_file(version.path / WEIGHTS_FILE)


def test_two_processes_learn_what_one_does(dataset: str, tmp_path: Path) -> None:
    steps = ("--max-steps", "5")
    alone = trained(tmp_path / "1", dataset, *steps, "--per-device-train-batch-size", "8")
    batch = ("--num-processes", "2", "--per-device-train-batch-size", "4")
    both = trained(tmp_path / "2", dataset, *steps, *batch)
    assert len(alone[0]) == 5
    assert both[0] == pytest.approx(alone[0], abs=2e-3)
    for name, values in alone[1].items():
        # As a whole: Adam moves a weight whose gradient is next to nothing by a whole step.
        assert torch.dist(both[1][name], values) < 0.02 * values.norm(), name
    # Only the first of them speaks.
    text = (tmp_path / "2.txt").read_text()
    assert text.count("step 5 of 5") == 1


def test_all_end_with_a_signal_and_go_on_from_the_last_checkpoint(
    dataset: str, tmp_path: Path
) -> None:
    flags = ("--max-steps", "30", "--num-processes", "2", "--per-device-train-batch-size", "4")
    said = tmp_path / "home.txt"
    arguments = ("train", dataset, *RECIPE, *flags, "--save-steps", "4")
    process = started(tmp_path / "home", said, *arguments)
    wait_for(said, "step 9 of")
    children = descendants(process.pid)
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGINT)
    process.wait(60)
    assert process.returncode == 130
    assert "Traceback" not in said.read_text()
    assert re.search(r"Stopped; step (8|12|16) is kept", said.read_text())
    for _ in range(200):  # multiprocessing's own tracker ends once it sees that all are gone
        left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
        if not left:
            break
        time.sleep(0.05)
    assert left == []
    again = started(tmp_path / "home", said, *arguments)
    again.wait(300)
    assert again.returncode == 0, said.read_text()
    assert re.search(r"going on after step (8|12|16)", said.read_text())


def test_an_error_of_theirs_is_told_once(dataset: str, tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    flags = ("--max-steps", "4", "--num-processes", "2", "--early-stopping-patience", "2")
    process = started(tmp_path, said, "train", dataset, *RECIPE, *flags)
    process.wait(300)
    assert process.returncode == 2, said.read_text()
    assert "Traceback" not in said.read_text()
    assert said.read_text().count("Nothing is held out to tell which weights are the best") == 1


def started(home: Path, said: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the command line; what it and its processes say on stderr goes into a file."""
    line = [sys.executable, "-c", "from adapters.cli import main; main()", *arguments]
    with said.open("ab") as stderr:
        environment = {**os.environ, "ADAPTERS_HOME": str(home)}
        return subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        )


def descendants(pid: int) -> list[int]:
    """Return the processes below one."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found
