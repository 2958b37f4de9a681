"""The real thing, small: bitsandbytes NF4, PEFT and TRL on the tiny base, into a registry."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adapters import bases, canary
from adapters.cli import main
from adapters.errors import NotFound, RegistryUnavailable, UsageError
from adapters.files import WEIGHTS_FILE
from adapters.registry import Registry
from tests.adapters.test_json import SHAPES, misfits
from tests.e2e import moe_kinds
from tests.train.runs import support_rows
from train import tuners
from train.canary import answers
from train.recipe import Recipe
from train.run import Job, run

BRIEF = {"max_steps": 6, "r": 8, "lora_alpha": 16.0, "learning_rate": 3e-3, "test_size": 0.1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return support_rows(tmp_path_factory.mktemp("dataset"), 96)


def test_the_base_is_really_nf4_with_double_quantisation() -> None:
    import bitsandbytes

    model = tuners.load_base(bases.resolve("tiny").path, Recipe(), torch.float32)
    linear = model.model.layers[0].mlp.gate_proj
    assert isinstance(linear, bitsandbytes.nn.Linear4bit)
    assert linear.weight.quant_state.quant_type == "nf4"
    assert linear.weight.quant_state.nested
    assert linear.compute_dtype == torch.float32


def test_a_run_publishes_a_version_with_its_lineage(dataset: str, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    version = run(Job(dataset, "tiny", "support", Recipe(**BRIEF)), registry)
    manifest = version.manifest
    assert version.ref == "support@v1"
    assert manifest.base == bases.resolve("tiny").model
    assert manifest.recipe["r"] == 8
    assert manifest.dataset["rows"] == 96
    assert manifest.dataset["train_rows"] + manifest.dataset["eval_rows"] == 96
    receipt = (version.path / "data_receipt.json").read_bytes()
    assert manifest.dataset["receipt_sha256"] == hashlib.sha256(receipt).hexdigest()
    assert manifest.metrics["steps"] == 6
    assert manifest.metrics["eval_loss"] < 8
    assert {"torch", "trl", "peft", "bitsandbytes"} <= manifest.code.keys()
    config = json.loads((version.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    recorded = canary.read(version.path / "canary.json")
    model = AutoModelForCausalLM.from_pretrained(bases.resolve("tiny").path, dtype=torch.float32)
    base = answers(model)
    adapted = answers(PeftModel.from_pretrained(model, version.path))
    assert canary.distance(recorded, adapted) < 1e-3, "as served, though NF4 was trained on"
    assert canary.distance(recorded, base) > 1e-2
    assert "A LoRA adapter of `tiny`" in (version.path / "README.md").read_text()


def test_the_same_seed_gives_the_same_adapter_bit_for_bit(dataset: str, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    job = Job(dataset, "tiny", "support", Recipe(**BRIEF, full_determinism=True), again=True)
    same = [run(job, registry) for _ in range(2)]
    other = run(
        Job(dataset, "tiny", "support", Recipe(**BRIEF, full_determinism=True, seed=1)), registry
    )
    digests = [version.manifest.digest for version in (*same, other)]
    assert digests[0] == digests[1]
    assert {"loss.csv", "loss.svg", "loss.png", "README.md"} <= same[0].manifest.files.keys()
    weights = [(version.path / WEIGHTS_FILE).read_bytes() for version in (*same, other)]
    assert weights[0] == weights[1] != weights[2]


def test_lora_without_quantisation_learns_the_rows(dataset: str, tmp_path: Path) -> None:
    recipe = Recipe(**BRIEF | {"max_steps": 24}, tuner="lora", target_modules=("q_proj", "v_proj"))
    version = run(Job(dataset, "tiny", "support", recipe), Registry.open(tmp_path))
    brief = Recipe(**BRIEF | {"max_steps": 2}, tuner="lora", target_modules=("q_proj", "v_proj"))
    before = run(Job(dataset, "tiny", "support", brief), Registry.open(tmp_path))
    assert version.manifest.metrics["eval_loss"] < before.manifest.metrics["eval_loss"]
    modules = {key.split(".")[-3] for key in load_file(version.path / WEIGHTS_FILE)}
    assert modules == {"q_proj", "v_proj"}


def test_of_a_mixture_of_experts_the_attention_is_trained(dataset: Path, tmp_path: Path) -> None:
    base, registry = str(tmp_path / "base"), Registry.open(tmp_path / "registry")
    moe_kinds.write_base("qwen3_moe", Path(base))
    recipe = Recipe(max_steps=2, max_length=64)
    version = run(Job(dataset, base, "support", recipe), registry)
    modules = {key.split(".")[-3] for key in load_file(version.path / WEIGHTS_FILE)}
    assert modules == set(moe_kinds.ATTENTION)
    for experts in (("gate_proj", "up_proj", "down_proj"), ("up_proj",)):
        with pytest.raises(UsageError, match="--target-modules"):
            run(Job(dataset, base, "support", Recipe(target_modules=experts)), registry)


def test_a_dry_run_shows_the_receipt_and_rows_and_trains_nothing(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("train.loop.train", None)
    command = ["train", dataset, "--base", "tiny", "--name", "support", "--dry-run"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--registry", str(tmp_path)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert re.search(r"^ *96 +read as messages", said, re.MULTILINE)
    assert said.count("support.jsonl:") == 3
    assert '<|im_start|>assistant\n⟦{"queue"' in said
    with pytest.raises(SystemExit):
        main([*command, "--json", "--registry", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert misfits(found, SHAPES["train --dry-run"]) == []
    assert found["receipt"]["rows"] == 96
    assert Registry.open(tmp_path).names() == []
    assert not (tmp_path / "home" / "runs").exists()


@pytest.mark.parametrize(
    ("base", "recipe", "error"),
    [
        ("/nowhere/base", Recipe(), Exception),
        ("tiny", Recipe(target_modules=("q_porj",)), UsageError),
    ],
)
def test_what_is_refused_publishes_nothing(
    dataset: str, tmp_path: Path, base: str, recipe: Recipe, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(Job(dataset, base, "support", recipe), Registry.open(tmp_path))
    with pytest.raises(NotFound):
        Registry.open(tmp_path).resolve("support")


def test_a_registry_that_cannot_be_written_is_refused_before_training(
    dataset: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryUnavailable, match="Cannot write"):
        run(Job(dataset, "tiny", "support", Recipe()), Registry.open(tmp_path / "file" / "below"))
