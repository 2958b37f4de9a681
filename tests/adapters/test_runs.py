"""Training runs that were given up: seen, counted, removed; never one that a process holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.errors import UsageError
from adapters.runs import held, remove_runs, runs_folder, stopped_runs
from tests.adapters.conftest import Run

DAY_S = 86_400


@pytest.fixture
def runs() -> dict[str, Path]:
    """Three runs that were stopped: long ago, as long ago but for a late checkpoint, just now."""
    made = {}
    for key, days in (("old", 40), ("touched", 40), ("new", 0)):
        checkpoint = runs_folder() / key / "checkpoints" / "checkpoint-1"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_bytes(b"0" * 1000)
        made[key] = runs_folder() / key
        for path in (made[key], *made[key].rglob("*")):
            os.utime(path, (time.time() - days * DAY_S,) * 2)
    os.utime(made["touched"] / "checkpoints" / "checkpoint-1", None)
    return made


@pytest.fixture
def holder(runs: dict[str, Path]) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the old one."""
    code = (
        "import sys; from pathlib import Path; from adapters.runs import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    line = [sys.executable, "-c", code, str(runs["old"])]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def keys(older_than_days: float) -> list[str]:
    return [run.run for run in stopped_runs(older_than_days=older_than_days)]


def test_what_nothing_happened_to_for_long_goes_and_nothing_else(
    runs: dict[str, Path], run: Run
) -> None:
    for line in ("gc", "gc --dry-run --yes"):
        code, out, _ = run(line)
        assert (code, runs["old"].exists()) == (0, True)
        assert "run old, stopped on" in out
        assert "touched" not in out
        assert "Would delete 0 version(s) and 1 stopped run(s)" in out
    assert "Deleted 0 version(s) and 1 stopped run(s)" in run("gc --yes")[1]
    assert sorted(path.name for path in runs_folder().iterdir()) == ["new", "touched"]
    told = json.loads(run("gc --runs-older-than 0 --yes --json")[1])
    assert [each["run"] for each in told["runs"]] == ["new", "touched"]
    assert list(runs_folder().iterdir()) == []
    assert run("gc --runs-older-than -1")[0] == 2
    with pytest.raises(UsageError):
        remove_runs(older_than_days=-1)


def test_one_that_a_process_holds_never_goes(
    runs: dict[str, Path], run: Run, holder: subprocess.Popen[str]
) -> None:
    assert keys(30) == []
    assert "old" not in run("gc --runs-older-than 0")[1]
    assert [gone.run for gone in remove_runs(older_than_days=0)] == ["new", "touched"]
    assert (runs["old"] / "checkpoints" / "checkpoint-1" / "weights").exists()
    holder.kill()  # the lock goes with the process
    holder.wait()
    assert keys(30) == ["old"]
    assert [gone.run for gone in remove_runs(older_than_days=30)] == ["old"]


def test_one_that_went_on_since_it_was_looked_at_stays(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stopped_runs(older_than_days=30)
    monkeypatch.setattr("adapters.runs.stopped_runs", lambda **_: seen)
    with held(runs["old"]):
        assert remove_runs(older_than_days=30) == []
        (runs["old"] / "checkpoints" / "checkpoint-2").mkdir()
    assert remove_runs(older_than_days=30) == []
    assert (runs["old"] / "checkpoints" / "checkpoint-2").exists()
    with held(runs["old"]):  # and ended
        for path in sorted(runs["old"].rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        runs["old"].rmdir()
    assert remove_runs(older_than_days=30) == []
    assert not runs["old"].exists()


def test_du_counts_them(runs: dict[str, Path], run: Run) -> None:
    told = json.loads(run("du --json")[1])
    assert [each["run"] for each in told["runs"]] == ["new", "old", "touched"]
    assert all(each["size_bytes"] >= 1000 for each in told["runs"])
    assert "run new, stopped on" in run("du")[1]
    assert json.loads(run("du --cache --json")[1])["runs"] == []


def test_the_trainers_folder_is_one_of_them() -> None:
    from train.resume import RunFolder

    folder = RunFolder("0123456789abcdef")
    with folder.held():
        (folder.path / "checkpoints").mkdir()
        assert stopped_runs() == []
    assert [each.run for each in stopped_runs()] == ["0123456789abcdef"]
