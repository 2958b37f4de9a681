"""Two real processes with every method: what one process learns, as far as chance allows."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train.methods import SCORING, TINY, TOKENIZER, preferences, sums
from train import processes
from train.loop import train
from train.prepare import prepare
from train.processes import Share, _work, train_in_processes
from train.recipe import Recipe

ANSWERS = {
    "num_generations": 4,
    "max_completion_length": 4,
    "reward": (f"{SCORING}:mostly_prompt",),
}
ANSWERS |= {"temperature": 3.0}
RUNS: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo"},
    "dpo-full": {"method": "dpo", "tuner": "full", "target_modules": ("q_proj", "v_proj")},
    "kto": {"method": "kto"},
    "kto-apo": {"method": "kto", "loss_type": "apo_zero_unpaired"},
    "reward": {"method": "reward"},
    "grpo": {"method": "grpo", **ANSWERS},
    "rloo": {"method": "rloo", **ANSWERS},
}


@dataclass(frozen=True)
class Shares(Share):
    """Several runs, which the same processes train one after the other: starting them is dear."""

    others: Sequence[Share] = field(default_factory=list)


def work_all(shares: Shares, told: Path) -> dict[str, dict[str, float]]:
    return {share.title: _work(share, told) for share in (shares, *shares.others)}


def share_of(name: str, place: Path, batch: int, processes: int) -> Share:
    own = RUNS[name]
    rows = sums() if own["method"] in ("grpo", "rloo") else preferences(48)
    folder = place / f"{name}-{processes}"
    for each in ("rows", "out"):
        (folder / each).mkdir(parents=True)
    dataset = place / f"{own['method']}.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = {"tuner": "lora", "max_steps": 3, "test_size": 0.2, "learning_rate": 3e-3, **own}
    chosen |= {"r": 4} if chosen["tuner"] == "lora" else {}
    recipe = Recipe(**chosen, per_device_train_batch_size=batch, num_processes=processes)
    made = prepare(str(dataset), recipe, TOKENIZER, folder / "rows")
    assert made.held_out
    assert len(made.held_out) == 12, "none is looked at twice"
    return Share(
        name, recipe, TINY, made.train, made.held_out, None, made.places,
        folder / "out", folder / "checkpoints",
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    weights: dict[str, torch.Tensor]


def outcome(share: Share, metrics: dict[str, float]) -> Trained:
    with (share.out / "loss.csv").open() as stream:
        curve = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]
    (weights,) = share.out.glob("*.safetensors")
    return Trained(metrics, curve, load_file(weights))


Pairs = dict[str, tuple[Trained, Trained]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Each run by one process with batches of 8, and by two with batches of 4."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        first, *others = [share_of(name, place, 4, 2) for name in RUNS]
        patched.setattr(processes, "_work", work_all)
        values = {name: getattr(first, name) for name in Share.__slots__}
        told = train_in_processes(Shares(**values, others=others))
        made = {}
        for both in (first, *others):
            alone = share_of(both.title, place, 8, 1)
            metrics = train(
                alone.recipe, TINY, TOKENIZER, alone.rows, alone.held_out, out=alone.out
            )
            made[both.title] = outcome(alone, metrics), outcome(both, told[both.title])
    return made


@pytest.mark.parametrize("name", ["dpo", "dpo-full", "kto-apo", "reward"])
def test_two_processes_learn_what_one_does(name: str, trained: Pairs) -> None:
    alone, both = trained[name]
    assert len(alone.curve) == 3
    assert losses(both) == pytest.approx(losses(alone), abs=1e-4)
    for metric, value in alone.metrics.items():
        if metric != "train_runtime_s":
            assert both.metrics[metric] == pytest.approx(value, abs=1e-3), metric
    assert far(both, alone) < 1e-3


def test_kto_is_told_how_far_it_went_by_other_pairs(trained: Pairs) -> None:
    """TRL pairs each prompt with another one's answer, of the same process's batch."""
    alone, both = trained["kto"]
    assert losses(both)[:2] == pytest.approx(losses(alone)[:2], abs=1e-4), "nothing is learnt yet"
    assert losses(both) == pytest.approx(losses(alone), abs=0.01)
    assert far(both, alone) < 0.05


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_answers_are_drawn_to_the_same_prompts(name: str, trained: Pairs) -> None:
    """Each process draws its own, so the losses are others."""
    alone, both = trained[name]
    of_prompts = [[round(point["reward"] / 50) for point in each.curve] for each in (alone, both)]
    assert of_prompts[0] == of_prompts[1]
    assert len(set(of_prompts[0])) > 1
    assert alone.metrics["eval_reward"] == pytest.approx(both.metrics["eval_reward"], abs=7)
    assert all(point["grad_norm"] > 0 for each in (alone, both) for point in each.curve)


def losses(run: Trained) -> list[float]:
    return [point["loss"] for point in run.curve]


def far(run: Trained, other: Trained) -> float:
    """Return how far weights are from others, by their size."""
    away = sum(float((run.weights[n] - w).square().sum()) for n, w in other.weights.items())
    return (away / sum(float(w.square().sum()) for w in other.weights.values())) ** 0.5
