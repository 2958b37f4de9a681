"""The loop's own promises: schedules, accumulation, the best weights, the order of rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.utils.data import RandomSampler
from transformers import TrainerCallback

from adapters import bases
from adapters.errors import UsageError
from train.before import load_tokenizer
from train.loop import train
from train.order import Order
from train.recipe import Recipe

BRIEF: dict[str, Any] = {"tuner": "lora", "r": 4, "per_device_train_batch_size": 4}


class Logs(TrainerCallback):  # type: ignore[misc]
    """All that a trainer logs."""

    def __init__(self) -> None:
        self.entries: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.entries.append(dict(logs))

    def of(self, key: str) -> list[float]:
        return [entry[key] for entry in self.entries if key in entry]


def rows(count: int, seed: int = 0) -> Dataset:
    chance = torch.Generator().manual_seed(seed)
    sizes = torch.randint(6, 20, (count,), generator=chance).tolist()
    drawn = [torch.randint(5, 300, (size,), generator=chance).tolist() for size in sizes]
    return Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in drawn])


def trained(
    out: Path,
    recipe: Recipe,
    held_out: Dataset | None = None,
    checkpoints: Path | None = None,
    given: Dataset | None = None,
) -> tuple[Logs, dict[str, float]]:
    logs, base = Logs(), bases.resolve("tiny").path
    out.mkdir()
    metrics = train(
        recipe, base, load_tokenizer(base), given or rows(24), held_out,
        out=out, checkpoints=checkpoints, callbacks=[logs],
    )  # fmt: skip
    return logs, metrics


@pytest.mark.parametrize(
    ("name", "falls"),
    [
        ("linear", lambda share: 1 - share),
        ("cosine", lambda share: (1 + math.cos(math.pi * share)) / 2),
        ("constant_with_warmup", lambda share: 1.0),
    ],
)
def test_the_rate_warms_up_and_falls(tmp_path: Path, name: str, falls: Any) -> None:
    recipe = Recipe(
        **BRIEF, max_steps=8, warmup_steps=2.0, lr_scheduler_type=name, learning_rate=1e-3
    )
    logs, _ = trained(tmp_path / "out", recipe)
    expected = [0, 5e-4, *(1e-3 * falls(step / 6) for step in range(6))]
    assert logs.of("learning_rate") == pytest.approx(expected, abs=1e-9)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole", Recipe(**BRIEF, max_steps=4))
    parts = Recipe(
        **BRIEF | {"per_device_train_batch_size": 2}, max_steps=4, gradient_accumulation_steps=2
    )
    summed, _ = trained(tmp_path / "parts", parts)
    assert summed.of("loss") == pytest.approx(whole.of("loss"), rel=1e-4)
    assert summed.of("grad_norm") == pytest.approx(whole.of("grad_norm"), rel=1e-3)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    plain = {**BRIEF, "max_steps": 2, "optim": "sgd", "learning_rate": 1.0, "warmup_steps": 0.0}
    moved = []
    for name, norm in (("clipped", 1e-3), ("whole", 1e3)):
        logs, _ = trained(tmp_path / name, Recipe(**plain, max_grad_norm=norm, max_loss_spike=0.0))
        assert logs.of("grad_norm")[0] > 1e-2
        weights = load_file(tmp_path / name / "adapter_model.safetensors")
        b = torch.cat([value.flatten() for key, value in weights.items() if "lora_B" in key])
        moved.append(b.norm().item())
    assert moved[0] <= 2e-3 < moved[1]


def test_early_stopping_publishes_the_best_weights(tmp_path: Path) -> None:
    """Rows at random cannot be learnt: on others the loss only rises, but for the first steps."""
    recipe = Recipe(
        **BRIEF, max_steps=60, eval_steps=2.0, early_stopping_patience=2, learning_rate=5e-3,
        warmup_steps=0.0,
    )  # fmt: skip
    kept = tmp_path / "checkpoints"
    logs, metrics = trained(tmp_path / "out", recipe, rows(8, seed=1), kept)
    during = logs.of("eval_loss")
    best = min(during)
    assert metrics["steps"] == 2 * (during.index(best) + 1 + 2) < 60
    published = load_file(tmp_path / "out" / "adapter_model.safetensors")
    step = 2 * (during.index(best) + 1)
    of_the_best = load_file(kept / f"checkpoint-{step}" / "adapter_model.safetensors")
    assert all(torch.equal(published[key], value) for key, value in of_the_best.items())


def test_nothing_to_stop_early_by_is_said(tmp_path: Path) -> None:
    recipe = Recipe(**BRIEF, early_stopping_patience=1)
    with pytest.raises(UsageError, match="Nothing is held out"):
        trained(tmp_path / "out", recipe)


def test_the_order_depends_on_the_seed_and_the_epoch_alone() -> None:
    def drawn(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(len(str(seed)) + epoch)  # whatever has been drawn before
        order = Order(RandomSampler(range(50)), seed)
        order.set_epoch(epoch)
        state = torch.get_rng_state()
        found = list(order)
        assert torch.equal(torch.get_rng_state(), state)
        return found

    assert sorted(drawn(0, 0)) == list(range(50))
    assert drawn(0, 1) == drawn(0, 1)
    assert len({tuple(drawn(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
