"""What a run will take is known before the base's weights are, and what cannot fit is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi

from adapters import bases
from adapters.demo.task import split
from adapters.errors import Rejected
from adapters.registry import Registry
from tests.hub.server import Hub
from train import preflight
from train.before import rehearse
from train.plan import Job
from train.preflight import Rows, estimate, largest_batch
from train.recipe import Recipe
from train.run import run
from train.tuners import attach, load_base

TINY = bases.resolve("tiny").path
ROWS = Rows(rows=100, tokens=10_000, longest=128)
BIG: dict[str, Any] = {"per_device_train_batch_size": 64, "max_length": 1024}


@pytest.fixture
def config_only(tmp_path: Path) -> Path:
    """A base of which nothing but the config.json is here."""
    shutil.copy(TINY / "config.json", tmp_path / "config.json")
    return tmp_path


@pytest.mark.parametrize("tuner", ["lora", "qlora", "full"])
def test_what_is_counted_is_what_is_loaded(config_only: Path, tuner: str) -> None:
    recipe = Recipe(tuner=tuner)
    found = estimate(config_only, recipe, ROWS)
    model = attach(load_base(TINY, recipe, torch.float32), recipe)
    learns = [p for p in model.parameters() if p.requires_grad]
    assert found.trainable_parameters == sum(p.numel() for p in learns)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert found.base_bytes == pytest.approx(frozen, rel=0.05, abs=1)  # scales of NF4 are beside it
    assert found.learnt_bytes == 16 * found.trainable_parameters


def test_a_slot_is_as_large_as_the_rank_class(config_only: Path) -> None:
    found = estimate(config_only, Recipe(r=20), ROWS)
    assert found.max_lora_rank == 32
    assert found.slot_bytes == found.trainable_parameters * 32 // 20 * 4


def test_more_rows_longer_rows_and_checkpointing_show(config_only: Path) -> None:
    plain = estimate(config_only, Recipe(), ROWS)
    twice = estimate(config_only, Recipe(per_device_train_batch_size=16), ROWS)
    assert twice.activation_bytes == pytest.approx(2 * plain.activation_bytes, rel=0.01)
    longer = estimate(config_only, Recipe(), replace(ROWS, longest=256))
    assert longer.activation_bytes == pytest.approx(2 * plain.activation_bytes, rel=0.01)
    assert estimate(config_only, Recipe(method="dpo"), ROWS).activation_bytes == (
        twice.activation_bytes
    )
    again = estimate(config_only, Recipe(gradient_checkpointing=True), ROWS)
    assert again.activation_bytes < plain.activation_bytes / 2
    assert again.seconds is not None


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo", "rloo", "reward"])
def test_every_method_is_estimated_and_says_whether_that_is_proven(
    config_only: Path, method: Any
) -> None:
    options: dict[str, Any] = {"reward": ("exact_match",)} if method in ("grpo", "rloo") else {}
    found = estimate(config_only, Recipe(method=method, **options), ROWS)
    assert found.peak_bytes > found.process_bytes > 0
    assert found.measured == (method == "sft")
    assert (found.seconds is None) == (method in ("grpo", "rloo"))


def test_what_cannot_fit_is_refused_with_flags_that_make_it_fit(
    config_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(**BIG)
    rows = replace(ROWS, longest=1024)
    small = estimate(config_only, replace(recipe, per_device_train_batch_size=1), rows).peak_bytes
    monkeypatch.setattr(preflight, "available_bytes", lambda processes: small + 1)
    with pytest.raises(Rejected, match="are available") as refused:
        preflight.preflight(config_only, recipe, rows)
    assert "--per-device-train-batch-size 1 --gradient-accumulation-steps 64" in refused.value.fix
    monkeypatch.setattr(preflight, "available_bytes", lambda processes: 1 << 20)
    with pytest.raises(Rejected) as refused:
        preflight.preflight(config_only, recipe, rows)
    assert "smaller base" in refused.value.fix


def test_the_largest_batch_that_fits_keeps_the_rows_of_a_step(
    config_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(per_device_train_batch_size=3, gradient_accumulation_steps=8)
    monkeypatch.setattr(preflight, "process_bytes", lambda: 0)  # it grows meanwhile
    room = estimate(config_only, replace(recipe, per_device_train_batch_size=8), ROWS).peak_bytes
    monkeypatch.setattr(preflight, "available_bytes", lambda processes: room + (1 << 20))
    chosen = largest_batch(config_only, recipe, ROWS)
    assert (chosen.per_device_train_batch_size, chosen.gradient_accumulation_steps) == (8, 3)
    asked, _ = preflight.preflight(config_only, replace(recipe, auto_find_batch_size=True), ROWS)
    assert asked.per_device_train_batch_size == 8


def test_a_rehearsal_holds_it_and_refuses_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "support.jsonl"
    path.write_text("".join(json.dumps(example.row()) + "\n" for example in split(16, 8)[0]))
    job = Job(str(path), "tiny", "support", Recipe(num_train_epochs=2, test_size=0))
    found = rehearse(job, Registry.open(tmp_path)).estimate
    assert found.steps == 4
    assert "estimate: " in capsys.readouterr().err
    assert found.as_json()["peak_bytes"] == found.peak_bytes
    monkeypatch.setattr(preflight, "available_bytes", lambda processes: 1 << 20)
    with pytest.raises(Rejected, match="of memory"):
        rehearse(job, Registry.open(tmp_path))


def test_of_a_base_that_cannot_fit_the_weights_are_never_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    api, files = HfApi(), [path for path in TINY.iterdir() if path.suffix != ".md"]
    api.create_repo("acme/base")
    added = [CommitOperationAdd(path.name, path) for path in files]
    api.create_commit("acme/base", added, commit_message="The base.")
    path = tmp_path / "support.jsonl"
    path.write_text("".join(json.dumps(example.row()) + "\n" for example in split(16, 8)[0]))
    job = Job(str(path), "acme/base", "support", Recipe(max_steps=2, test_size=0))
    with monkeypatch.context() as patched:
        patched.setattr(preflight, "available_bytes", lambda processes: 1 << 20)
        with pytest.raises(Rejected, match="of memory"):
            run(job, Registry.open(tmp_path))
    cached = tmp_path / "cache"
    assert list(cached.rglob("config.json"))
    assert list(cached.rglob("*.safetensors")) == []
    version = run(job, Registry.open(tmp_path))
    assert version.manifest.base.id == "acme/base"
    assert list(cached.rglob("*.safetensors"))
