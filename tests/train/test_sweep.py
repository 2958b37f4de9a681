"""A sweep ends with its trials and the best one's version, whatever happens to it on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from adapters.cli import main
from adapters.errors import Rejected, UsageError
from adapters.registry import Registry
from adapters.runs import held
from tests.train.runs import command, start, support_rows
from train.before import load_tokenizer, prepare_rows
from train.plan import Job, Plan, make_plan
from train.prepare import Prepared
from train.recipe import Recipe
from train.resume import RunFolder
from train.space import Space, read_space
from train.sweep import Sweep, sweep
from train.trial import Ended, attempt

FIXED = "tuner: lora\nmax_steps: 2\neval_steps: 1\nsave_steps: 1\ntest_size: 0.3\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return support_rows(tmp_path_factory.mktemp("dataset"), 32)


def space(tmp_path: Path, text: str) -> Space:
    path = tmp_path / "recipe.yaml"
    path.write_text(FIXED + text)
    return read_space(path, {})


def job(dataset: str) -> Job:
    return Job(dataset, "tiny", "support", Recipe())


def study_in(home: Path) -> optuna.Study:
    (path,) = (home / "sweeps").glob("*/study.db")
    return optuna.load_study(study_name=None, storage=f"sqlite:///{path}")


def test_a_sweep_of_8_trials_goes_on_after_a_kill(dataset: str, tmp_path: Path) -> None:
    space(tmp_path, "learning_rate: {low: 1e-4, high: 1e-2, log: true}\nr: {choices: [2, 4]}\n")
    recipe = str(tmp_path / "recipe.yaml")
    arguments = ("sweep", recipe, dataset, "--base", "tiny", "--name", "support")
    arguments += ("--eval-steps", "2", "--json")
    said = tmp_path / "said.txt"
    killed = start(command, tmp_path, said, *arguments, daemon=False)
    checkpoint_of_the_third(killed, tmp_path, said)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    before = study_in(tmp_path).trials
    assert [trial.state.name for trial in before] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert Registry.open(tmp_path).names() == []

    again = start(command, tmp_path, said, *arguments, daemon=False)
    again.join()
    assert again.exitcode == 0, said.read_text()
    trials = study_in(tmp_path).trials
    assert [trial.number for trial in trials] == list(range(8))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert [trial.datetime_complete for trial in trials[:2]] == [
        trial.datetime_complete for trial in before[:2]
    ]
    assert trials[2].params == before[2].params, "the stopped one goes on under its number"
    rates = [trial.params["learning_rate"] for trial in trials]
    assert len(set(rates)) == 8, "a sampler that starts again does not repeat itself"
    told = said.read_text().splitlines()
    assert sum(line.startswith("trial 0 ") and "learning_rate" in line for line in told) == 1
    assert "2 of 8 trials ended before" in told

    version = Registry.open(tmp_path).resolve("support")
    best = min((t for t in trials if t.value is not None), key=lambda trial: trial.value or 0)
    assert version.manifest.metrics["eval_loss"] == best.value
    assert version.manifest.recipe["learning_rate"] == best.params["learning_rate"]
    assert list((tmp_path / "runs").iterdir()) == [], "only the best was kept, until published"


def alone(home: Path, *arguments: str) -> None:
    """Run the command line as the leader of a process group, as a shell does."""
    os.setsid()
    command(home, *arguments)


def test_after_ctrl_c_all_is_whole_and_the_same_command_goes_on(
    dataset: str, tmp_path: Path
) -> None:
    space(tmp_path, "r: {choices: [2, 4]}\nmax_steps: 30\nsave_steps: 8\neval_steps: 30\n")
    arguments = ("sweep", str(tmp_path / "recipe.yaml"), dataset, "--base", "tiny", "--name", "a")
    arguments += ("--trials", "1")
    home, said = tmp_path / "home", tmp_path / "said.txt"  # the first is this process's too
    stopped = start(alone, home, said, *arguments, daemon=False)
    while not list(home.glob("runs/*/checkpoints/checkpoint-*/whole.json")):
        assert stopped.is_alive(), said.read_text()
        time.sleep(0.02)
    os.killpg(stopped.pid, signal.SIGINT)  # a terminal tells all that it started
    stopped.join()
    assert stopped.exitcode == 130
    assert "Traceback" not in said.read_text()
    assert "Stopped. The same command goes on from there." in said.read_text()
    (before,) = study_in(home).trials
    assert before.state.name == "RUNNING"
    assert Registry.open(home).names() == []
    (run,) = home.glob("runs/*/")
    checkpoints = list(run.glob("checkpoints/checkpoint-*"))
    assert checkpoints == [each for each in checkpoints if (each / "whole.json").exists()]
    assert not list(run.glob("adapter*"))
    assert not list(home.glob("sweeps/*/rows"))
    with held(run, pytest.fail):
        pass  # the trial's process has ended too

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    (after,) = study_in(home).trials
    assert after.state.name == "COMPLETE"
    assert (after.params, after.datetime_start) == (before.params, before.datetime_start)
    assert Registry.open(home).resolve("a").number == 1


def test_what_is_worse_than_the_median_is_pruned(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that learn come first, then one that hardly does; Optuna's own queue says so."""
    made = optuna.create_study

    def queued(**options: Any) -> optuna.Study:
        study = made(**options)
        for rate in (3e-3, 2e-3, 1e-8):
            study.enqueue_trial({"learning_rate": rate})
        return study

    monkeypatch.setattr(optuna, "create_study", queued)
    monkeypatch.setattr("train.sweep.STARTUP", 2)
    rates = "learning_rate: {choices: [3e-3, 2e-3, 1e-8]}\n"
    ranges = space(tmp_path, f"{rates}max_steps: 4\nwarmup_steps: 0\n")
    found = sweep(Sweep(job(dataset), ranges, trials=4), Registry.open(tmp_path))
    assert [trial.state for trial in found.trials[:3]] == ["complete", "complete", "pruned"]
    assert found.trials[2].reason == "worse than the median"
    seen = [list(trial.intermediate_values) for trial in study_in(tmp_path / "home").trials[:3]]
    assert seen == [[1, 2, 3, 4], [1, 2, 3, 4], [1]]
    assert found.version.manifest.recipe["learning_rate"] in (3e-3, 2e-3)
    assert list((tmp_path / "home" / "runs").iterdir()) == []


def checkpoint_of_the_third(process: Any, home: Path, said: Path) -> None:
    """Wait until the third trial has written a checkpoint."""
    while process.is_alive():
        if said.exists() and "trial 2 (3 of 8)" in said.read_text():
            run = study_in(home).trials[2].user_attrs.get("run", "none")
            if list((home / "runs" / run / "checkpoints").glob("checkpoint-*/whole.json")):
                return
        time.sleep(0.02)
    raise AssertionError(said.read_text())


def test_what_goes_wrong_in_a_trial_ends_that_trial(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry.open(tmp_path)
    ranges = space(tmp_path, "target_modules: {choices: [q_proj, nonsense]}\n")
    order = Sweep(replace(job(dataset), notes="for Q3"), ranges, trials=4)
    found = sweep(order, registry)
    # Two recipes are all there are: what is tried already is not trained again.
    states = {trial.params["target_modules"]: trial.state for trial in found.trials}
    assert states == {"q_proj": "complete", "nonsense": "failed"}
    assert sum("as trial" in trial.reason for trial in found.trials) == 2
    assert any("nonsense" in trial.reason for trial in found.trials)
    assert len({trial.value for trial in found.trials if trial.value is not None}) == 1
    manifest = found.version.manifest
    assert manifest.notes.startswith("for Q3\nTrial ")
    assert found.study in manifest.notes
    record = json.loads((found.version.path / "sweep.json").read_text())
    assert [trial["params"] for trial in record["trials"]] == [t.params for t in found.trials]
    assert record["best"] == found.best
    assert (found.folder / "trials.svg").exists()
    assert (found.folder / "trials.png").exists()
    assert not (found.folder / "rows").exists()

    capsys.readouterr()
    assert sweep(order, registry).version.ref == found.version.ref
    assert "4 of 4 trials ended before" in capsys.readouterr().err
    more = sweep(replace(order, trials=5), registry)
    assert [trial.number for trial in more.trials] == [0, 1, 2, 3, 4]
    assert more.version.ref == found.version.ref == "support@v1"


@pytest.fixture(scope="module")
def planned(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Prepared]:
    place = tmp_path_factory.mktemp("planned")
    recipe = Recipe(tuner="lora", max_steps=4, r=2, eval_steps=1.0, save_steps=1, test_size=0.3)
    plan = make_plan(replace(job(dataset), recipe=recipe), Registry.open(place))
    return plan, prepare_rows(plan, load_tokenizer(plan.base.path), place / "rows")


def tried(planned: tuple[Plan, Prepared], **how: Any) -> Ended:
    plan, rows = planned
    return attempt(plan, rows, title="a trial", metric="eval_loss", **how)


def test_a_killed_trial_has_failed_and_goes_on_from_its_checkpoint(
    planned: tuple[Plan, Prepared],
) -> None:
    def kill(validation: int, value: float) -> bool:
        if validation == 3:
            (process,) = multiprocessing.active_children()
            process.kill()
        return False

    ended = tried(planned, hopeless=kill)
    assert (ended.state, ended.reason) == ("failed", "its process ended with SIGKILL")
    assert RunFolder(planned[0].key).step() >= 1
    seen: list[int] = []
    ended = tried(planned, hopeless=lambda validation, _: bool(seen.append(validation)))
    assert ended.state == "complete"
    assert seen[-1] == 4
    assert seen[0] > 1, "those before the checkpoint are counted"
    assert RunFolder(planned[0].key).trained() == ended.metrics


def test_an_interrupt_has_a_checkpoint_written_first(planned: tuple[Plan, Prepared]) -> None:
    """At a validation, where the trial waits for an answer."""

    def interrupt(validation: int, value: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tried(planned, hopeless=interrupt)
    assert RunFolder(planned[0].key).step() >= 1
    assert multiprocessing.active_children() == []


def test_a_hopeless_trial_leaves_nothing(planned: tuple[Plan, Prepared]) -> None:
    ended = tried(planned, hopeless=lambda validation, value: validation == 2)
    assert (ended.state, ended.metrics) == ("pruned", {})
    assert not RunFolder(planned[0].key).path.exists()


def test_a_sweep_that_has_nothing_to_go_by(dataset: str, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    with pytest.raises(UsageError, match="Nothing is held out"):
        sweep(Sweep(job(dataset), held_out_none(tmp_path), trials=1), registry)
    ranges = space(tmp_path, "target_modules: {choices: [nonsense]}\n")
    with pytest.raises(Rejected, match="None of 1 trials was completed"):
        sweep(Sweep(job(dataset), ranges, trials=1), registry)


def held_out_none(tmp_path: Path) -> Space:
    path = tmp_path / "none.yaml"
    path.write_text("test_size: 0\nr: {choices: [2, 4]}\n")
    return read_space(path, {})


def test_what_is_no_version_is_not_searched_for(dataset: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("tuner: {choices: [lora, full]}\n")
    with pytest.raises(UsageError, match="no adapter"):
        sweep(Sweep(job(dataset), read_space(path, {}), trials=1), Registry.open(tmp_path))
    assert not (tmp_path / "home" / "sweeps").exists()


def test_a_metric_that_no_version_has_is_named_with_those_that_it_has(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Ended("complete", {"eval_loss": 1.0, "eval_mean_token_accuracy": 0.5})
    monkeypatch.setattr("train.trial.attempt", lambda *_, **__: ended)
    ranges = space(tmp_path, "r: {choices: [2]}\n")
    with pytest.raises(UsageError) as refused:
        sweep(Sweep(job(dataset), ranges, trials=1, metric="eval_f1"), Registry.open(tmp_path))
    assert "eval_mean_token_accuracy" in str(refused.value)
