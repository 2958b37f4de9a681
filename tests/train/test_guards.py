"""A run that goes wrong is stopped at the step, with its rows by name and nothing published."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from transformers import TrainerState

from adapters.errors import Rejected
from adapters.registry import Registry
from tests.train.runs import support_rows
from train.guards import Guards
from train.recipe import Recipe
from train.run import Job, run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return support_rows(tmp_path_factory.mktemp("dataset"), 24)


def test_a_learning_rate_that_gives_nan_is_caught_and_named(dataset: str, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    recipe = Recipe(max_steps=20, learning_rate=1.0, lora_alpha=1e5, warmup_steps=0.0)
    with pytest.raises(Rejected) as caught:
        run(Job(dataset, "tiny", "support", recipe), registry)
    said = caught.value
    assert "of 20: the gradient's norm is nan" in said.message
    assert "support.jsonl:" in said.message
    assert "lower --learning-rate (1; try 0.1)" in said.fix
    assert registry.names() == []
    assert list((tmp_path / "home" / "runs").iterdir()) == []


@pytest.mark.parametrize("packing", [False, True])
def test_the_rows_that_are_named_are_the_rows_of_the_step(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    seen: list[torch.Tensor] = []
    learn = trl.SFTTrainer.training_step

    def breaks_in_its_second_epoch(self: Any, model: Any, inputs: Any, *rest: Any) -> torch.Tensor:
        seen.append(inputs["input_ids"])
        loss: torch.Tensor = learn(self, model, inputs, *rest)
        return loss * (float("nan") if self.state.global_step == 4 else 1)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", breaks_in_its_second_epoch)
    recipe = Recipe(
        max_steps=9, per_device_train_batch_size=3, gradient_accumulation_steps=2, test_size=0.0,
        packing=packing, max_length=100 if packing else 1024, tuner="lora", r=2,
    )  # fmt: skip
    with pytest.raises(Rejected, match="Step 5 of 9: the loss is nan") as caught:
        run(Job(dataset, "tiny", "support", recipe), Registry.open(tmp_path))
    named = caught.value.message.partition("Its rows: ")[2].partition(". Nothing")[0].split(", ")
    assert len(named) == 6
    from adapters import bases
    from train.before import load_tokenizer

    tokenizer = load_tokenizer(bases.resolve("tiny").path)
    text = "".join(tokenizer.decode(row) for batch in seen[-2:] for row in batch)
    rows = Path(dataset).read_text().splitlines()
    for line, row in enumerate(rows, 1):
        asked = json.loads(row)["messages"][1]["content"]
        assert (asked in text) == (f"support.jsonl:{line}" in named), (line, named)


def steps(losses: list[float], ratio: float = 5.0) -> Rejected | None:
    """Show guards the losses of a run; return what they raise."""
    guards = Guards(Recipe(max_loss_spike=ratio), lambda step: [f"a.jsonl:{step}"])
    state, arguments = TrainerState(max_steps=100), SimpleNamespace(fp16=False)
    for step, loss in enumerate(losses, 1):
        state.global_step = step
        logs = {"loss": loss, "grad_norm": 1.0}
        state.log_history.append(logs)
        try:
            guards.on_log(arguments, state, None, logs=logs)
        except Rejected as error:
            return error
    return None


def test_a_loss_far_above_the_runs_own_is_a_spike() -> None:
    found = steps([2.0] * 10 + [12.0])
    assert found
    assert "Step 11 of 100: the loss jumps to 12, from 2" in found.message
    assert "a.jsonl:11" in found.message
    assert "--max-loss-spike 0" in found.fix


@pytest.mark.parametrize(
    "losses",
    [
        [2.0] * 4 + [12.0],  # too early to tell what is usual
        [2.0] * 10 + [9.0],
        [3.0] * 10 + [0.01] * 50 + [0.9],  # a hard row late in a run that learnt the others
    ],
)
def test_a_hard_batch_is_no_spike(losses: list[float]) -> None:
    assert steps(losses) is None


def test_spikes_may_be_allowed_and_what_is_no_number_never() -> None:
    assert steps([2.0] * 10 + [900.0], ratio=0) is None
    assert steps([2.0] * 10 + [float("inf")], ratio=0)


def test_a_first_step_that_is_no_number_is_not_the_learning_rates_fault() -> None:
    found = steps([float("nan")])
    assert found
    assert "Nothing was learnt yet" in found.fix
