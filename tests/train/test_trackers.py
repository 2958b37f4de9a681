"""Where else a run's numbers go: refused in time, and sent by transformers."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from adapters.demo.task import split
from adapters.errors import MissingExtra, UsageError
from adapters.registry import Registry
from train.recipe import Recipe
from train.run import Job, run
from train.trackers import check_trackers, named

BRIEF = {"max_steps": 3, "r": 4, "tuner": "lora"}


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    path = tmp_path / "support.jsonl"
    path.write_text("".join(json.dumps(example.row()) + "\n" for example in split(40, 1)[0]))
    return str(path)


def test_a_tracker_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as refused:
        check_trackers(["tensorbord"])
    assert refused.value.fix == "Did you mean tensorboard?"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_before_anything_is_loaded(
    name: str, dataset: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    job = Job(dataset, "tiny", "support", Recipe(**BRIEF, report_to=(name,)))
    with pytest.raises(MissingExtra) as refused:
        run(job, Registry.open(tmp_path / "registry"))
    assert refused.value.fix == f"pip install {name}"


def test_a_run_has_its_own_name_and_what_a_person_has_set_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setenv("WANDB_NAME", "mine")
    with named("support", "1a2b"):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == "runs/support/1a2b"
        assert os.environ["WANDB_NAME"] == "mine"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    assert os.environ["WANDB_NAME"] == "mine"


def test_transformers_sends_losses_and_validation(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To one more tracker in transformers' own table, as it needs no package."""
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[dict[str, float]] = []

    class Recorder(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: object, state: object, control: object, **kwargs: object) -> None:
            told.append(kwargs["logs"])  # type: ignore[arg-type]

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    recipe = Recipe(**BRIEF, test_size=0.3, report_to=("recorder",))
    version = run(Job(dataset, "tiny", "support", recipe), Registry.open(tmp_path / "registry"))
    assert sum("loss" in logs for logs in told) == 3
    assert {"eval_loss": version.manifest.metrics["eval_loss"]}.items() <= told[-1].items()
