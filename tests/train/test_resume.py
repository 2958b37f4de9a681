"""Stopped at any point, by any signal: the same command ends with the same bits."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import RegistryUnavailable
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version
from tests.train.runs import command, start, support_rows, train_once
from train.checkpoints import Checkpoints
from train.recipe import Recipe
from train.resume import WHOLE, run_key
from train.run import Job, run

EVENTS = (
    "on_epoch_begin", "on_step_begin", "on_substep_end", "on_pre_optimizer_step",
    "on_optimizer_step", "on_step_end", "on_log", "on_evaluate", "on_save", "on_epoch_end",
)  # fmt: skip
STEPS = 24
"""Two epochs of 12 steps: 93 rows, 8 a step."""
LAST = {"on_epoch_begin": 12, "on_evaluate": 20}
"""The step at which an event comes for the last time; the others come until the end."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return support_rows(tmp_path_factory.mktemp("dataset"), 96)


def all_that_moves(**other: Any) -> Recipe:
    """Return a recipe with everything in it that a careless resume forgets."""
    recipe = {
        "num_train_epochs": 2.0, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2, "r": 4, "lora_dropout": 0.1, "learning_rate": 3e-3,
        "warmup_steps": 4.0, "weight_decay": 0.01, "test_size": 0.1, "save_steps": 2,
        "eval_steps": 5.0, "early_stopping_patience": 3, "seed": 5, "full_determinism": True,
    }  # fmt: skip
    return Recipe(**recipe | other)


def killed_and_finished(home: Path, job: Job, kills: list[tuple[str, int]]) -> tuple[Version, str]:
    """Run a job once for each kill and then to its end; return its version and what was said."""
    said = home.parent / f"{home.name}.txt"
    for kill in kills:
        process = start(train_once, home, said, job, kill)
        process.join()
        assert process.exitcode == -signal.SIGKILL, said.read_text()
        assert Registry.open(home).names() == []
    process = start(train_once, home, said, job)
    process.join()
    assert process.exitcode == 0, said.read_text()
    return Registry.open(home).resolve(job.name), said.read_text()


def test_killed_at_random_steps_it_ends_with_the_same_bits(dataset: str, tmp_path: Path) -> None:
    """`KILLS=20` for twenty of them."""
    chance = random.Random()
    steps = sorted(chance.choices(range(1, STEPS), k=int(os.environ.get("KILLS", "3"))))
    drawn = [(chance.choice(EVENTS), step) for step in steps]
    kills = [(event, min(step, LAST.get(event, STEPS))) for event, step in drawn]
    job = Job(dataset, "tiny", "support", all_that_moves())
    whole, _ = killed_and_finished(tmp_path / "whole", job, [])
    stopped, said = killed_and_finished(tmp_path / "stopped", job, kills)
    assert stopped.manifest.digest == whole.manifest.digest, kills
    assert stopped.manifest.metrics["eval_loss"] == whole.manifest.metrics["eval_loss"]
    assert stopped.manifest.metrics["train_loss"] == whole.manifest.metrics["train_loss"]
    assert list((tmp_path / "stopped" / "runs").iterdir()) == []
    assert "going on after step" in said or steps[-1] < 3, kills


def test_packed_rows_go_on_as_they_were(dataset: str, tmp_path: Path) -> None:
    packed = {"packing": True, "max_length": 256, "per_device_train_batch_size": 2,
              "num_train_epochs": 1.0, "save_steps": 1}  # fmt: skip
    job = Job(dataset, "tiny", "support", all_that_moves(**packed, early_stopping_patience=None))
    whole, _ = killed_and_finished(tmp_path / "whole", job, [])
    stopped, _ = killed_and_finished(tmp_path / "stopped", job, [("on_save", 3)])
    assert stopped.manifest.digest == whole.manifest.digest


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "terminated"]
)
def test_a_signal_has_a_checkpoint_written_first(
    dataset: str, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    said = tmp_path / "said.txt"
    arguments = ["train", dataset, "--base", "tiny", "--name", "support", "--max-steps", "100"]
    process = start(command, tmp_path, said, *arguments)
    wait_for(said, "step 10 of")
    assert process.pid
    os.kill(process.pid, sent)
    process.join(120)
    assert process.exitcode == code
    assert "Traceback" not in said.read_text()
    assert "The same command goes on from there" in said.read_text()
    assert Registry.open(tmp_path).names() == []
    (folder,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    step = int(said.read_text().partition("Stopped; step ")[2].partition(" ")[0])
    assert (folder / "checkpoints" / f"checkpoint-{step}" / "whole.json").exists()
    assert step >= 10


def test_a_signal_before_any_step_leaves_nothing(dataset: str, tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    process = start(command, tmp_path, said, "train", dataset, "--base", "tiny", "--name", "a")
    wait_for(said, "train_rows")
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == 143
    assert "Traceback" not in said.read_text()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path != said]
    assert left == []


def wait_for(said: Path, text: str) -> None:
    """Wait until a process has said something."""
    for _ in range(6000):
        if said.exists() and text in said.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(said.read_text())


def test_a_finished_run_is_not_repeated_but_on_demand(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry.open(tmp_path)
    recipe = Recipe(max_steps=2, r=4)
    first = run(Job(dataset, "tiny", "support", recipe), registry)
    capsys.readouterr()
    # What does not reach the weights makes it no other run; what does, does.
    same = run(Job(dataset, "tiny", "support", Recipe(max_steps=2, r=4, save_steps=7)), registry)
    assert same.ref == first.ref
    assert "support@v1 is this run's, finished already" in capsys.readouterr().err
    again = run(Job(dataset, "tiny", "support", recipe, again=True), registry)
    assert again.ref == "support@v2"
    assert again.manifest.digest == first.manifest.digest
    brief = Serving.from_json({"system": "Be brief."})
    other = run(Job(dataset, "tiny", "support", recipe, serving=brief), registry)
    assert (other.ref, other.manifest.serving) == ("support@v3", {"system": "Be brief."})


def test_two_processes_at_one_run_make_one_version(dataset: str, tmp_path: Path) -> None:
    job = Job(dataset, "tiny", "support", Recipe(max_steps=4, r=4))
    said = [tmp_path / "1.txt", tmp_path / "2.txt"]
    both = [start(train_once, tmp_path, each, job) for each in said]
    for process in both:
        process.join()
        assert process.exitcode == 0, [each.read_text() for each in said]
    assert [version.number for version in Registry.open(tmp_path).versions("support")] == [1]
    assert sum("another process is at this run" in each.read_text() for each in said) == 1


def test_what_was_trained_and_not_published_is_published_without_training(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.open(tmp_path)
    job = Job(dataset, "tiny", "support", Recipe(max_steps=2, r=4))

    def full(*_: object, **__: object) -> None:
        raise RegistryUnavailable("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "publish", full)
        with pytest.raises(RegistryUnavailable):
            run(job, registry)
    monkeypatch.setattr("train.loop.train", full)
    assert run(job, registry).ref == "support@v1"


def test_what_was_being_written_is_not_gone_on_from(tmp_path: Path) -> None:
    for step, whole in ((100, True), (200, True), (300, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        if whole:
            (tmp_path / f"checkpoint-{step}" / WHOLE).write_text('{"runtime_s": 50.0}')
    kept = Checkpoints(tmp_path, every=100)
    assert kept.latest() == tmp_path / "checkpoint-200"
    assert not (tmp_path / "checkpoint-300").exists()
    assert 50 <= kept.runtime_s < 60


def test_a_signal_in_the_last_step_ends_it_too(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    kept = Checkpoints(tmp_path, every=100)
    kept.__enter__()
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before, "a second one ends at once"
    with pytest.raises(SystemExit) as ended:
        kept.__exit__(None)
    assert ended.value.code == 143


def test_what_decides_the_weights_decides_the_key() -> None:
    decides: dict[str, dict[str, Any]] = {
        "base": {"id": "tiny", "revision": "1"},
        "recipe": {"r": 4, "save_steps": 1, "seed": 0},
        "dataset": {"path": "a.jsonl", "sha256": "0", "replay": {"sha256": "1", "share": 0.1}},
        "code": {"torch": "2"},
    }
    key = run_key(**decides)
    assert key == run_key(**decides | {"recipe": {"r": 4, "save_steps": 2, "seed": 0}})
    assert key == run_key(**decides | {"dataset": decides["dataset"] | {"rows": 7}})
    others: list[dict[str, dict[str, Any]]] = [
        {"base": {"id": "tiny", "revision": "2"}},
        {"recipe": {"r": 4, "seed": 1}},
        {"dataset": decides["dataset"] | {"sha256": "2"}},
        {"dataset": decides["dataset"] | {"replay": {"sha256": "1", "share": 0.2}}},
        {"dataset": decides["dataset"] | {"eval_dataset": {"sha256": "3"}}},
        {"code": {"torch": "3"}},
    ]
    keys = {key, *(run_key(**decides | other) for other in others)}
    assert len(keys) == 1 + len(others)
