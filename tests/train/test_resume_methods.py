"""Killed in between, every method ends with the same bits; those that draw answers too."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from adapters.registry import Registry
from tests.train.methods import preferences, sums
from tests.train.runs import start, train_once
from train.recipe import Recipe
from train.run import Job, run

ANSWERS = {
    "reward": ("exact_match", "length:1-4"), "num_generations": 4, "max_completion_length": 4,
    "per_device_train_batch_size": 8, "num_iterations": 2, "beta": 0.05,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {"grpo": ANSWERS, "rloo": ANSWERS, "dpo": {"tuner": "pissa"}}


@pytest.mark.parametrize("method", ["dpo", "kto", "reward", "grpo", "rloo"])
def test_every_method_goes_on_where_it_was_killed(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in step 4 of 6, it goes on after the third: amid an epoch, and amid GRPO's answers."""
    rows = sums() if method in ("grpo", "rloo") else preferences(24)
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "tuner": "lora", "r": 4, "lora_dropout": 0.1, "learning_rate": 3e-3, "max_steps": 6,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "test_size": 0.0,
        "save_steps": 3, "full_determinism": True,
    }  # fmt: skip
    chosen = Recipe(**recipe | OWN.get(method, {}), method=method)
    job = Job(str(dataset), "tiny", "resumed", chosen)
    whole = run(job, Registry.open(tmp_path / "whole"))
    home, said = tmp_path / "home", tmp_path / "said.txt"  # the first is this process's too
    killed = start(train_once, home, said, job, ("on_step_end", 4))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL, said.read_text()
    assert next(home.glob("runs/*/checkpoints/checkpoint-3/whole.json"))
    stopped = run(job, Registry.open(home))
    assert "going on after step 3" in capsys.readouterr().err
    assert stopped.manifest.digest == whole.manifest.digest
    assert stopped.manifest.metrics["train_loss"] == whole.manifest.metrics["train_loss"]
