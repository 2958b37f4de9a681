"""Rows of another dataset among the own, and what a run forgets of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adapters import bases
from adapters.demo.task import split
from adapters.errors import InvalidDataset, UsageError
from adapters.files import WEIGHTS_FILE
from adapters.registry import Registry
from train.before import load_tokenizer
from train.prepare import Prepared, prepare
from train.recipe import Recipe
from train.replay import Replay
from train.run import Job, run

BRIEF: dict[str, Any] = {"tuner": "lora", "r": 4, "max_steps": 3, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A dataset of 36 rows, and one of 100 that is about something else."""
    folder = tmp_path_factory.mktemp("datasets")
    own, general = folder / "support.jsonl", folder / "general.jsonl"
    own.write_text("".join(json.dumps(example.row()) + "\n" for example in split(36, 8)[0]))
    sums = [{"prompt": f"What is {n} plus {n + 3}?", "completion": f"{2 * n + 3}."}
            for n in range(100)]  # fmt: skip
    general.write_text("".join(json.dumps(row) + "\n" for row in sums))
    return str(own), str(general)


def prepared(scratch: Path, own: str, replay: str, **recipe: Any) -> Prepared:
    scratch.mkdir()
    tokenizer = load_tokenizer(bases.resolve("tiny").path)
    return prepare(own, Recipe(**recipe), tokenizer, scratch, replay=Replay.parse(replay))


def test_a_share_of_the_rows_is_replayed(places: tuple[str, str], tmp_path: Path) -> None:
    own, general = places
    rows = prepared(tmp_path / "a", own, f"{general}=0.25", test_size=0.0)
    assert len(rows.train) == len(rows.places) == 48
    assert [place.partition(":")[0] for place in rows.places].count("general.jsonl") == 12
    assert rows.lineage["train_rows"] == 36
    replay = rows.lineage["replay"]
    assert replay["rows"] == 100
    assert replay["train_rows"] == 12
    assert replay["sha256"] == hashlib.sha256(Path(general).read_bytes()).hexdigest()
    assert rows.retained
    assert len(rows.retained) == replay["eval_rows"] > 2
    assert rows.details["replay"]["rows"] == 100


def test_the_seed_chooses_the_rows(places: tuple[str, str], tmp_path: Path) -> None:
    own, general = places
    chosen = [
        tuple(prepared(tmp_path / str(n), own, f"{general}=0.25", seed=seed).places)
        for n, seed in enumerate((0, 0, 1))
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_score_is_what_its_formula_says(places: tuple[str, str], tmp_path: Path) -> None:
    own, general = places
    job = Job(own, "tiny", "support", Recipe(**BRIEF), replay=f"{general}=0.2")
    version = run(job, Registry.open(tmp_path))
    metrics = version.manifest.metrics
    retained = prepared(tmp_path / "rows", own, f"{general}=0.2").retained
    base = AutoModelForCausalLM.from_pretrained(bases.resolve("tiny").path, dtype=torch.float32)
    before = loss(base, retained)
    after = loss(PeftModel.from_pretrained(base, version.path), retained)
    assert metrics["base_replay_loss"] == pytest.approx(before, rel=1e-4)
    assert metrics["replay_loss"] == pytest.approx(after, rel=1e-4)
    assert metrics["forgetting"] == pytest.approx(after - before, abs=1e-3)
    assert abs(metrics["forgetting"]) > 1e-2
    assert 0 <= metrics["replay_token_accuracy"] <= 1


def loss(model: Any, rows: Any) -> float:
    """Return nats a token that the loss falls on, row by row."""
    total, tokens = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        said = int((labels[0, 1:] != -100).sum())
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * said
        tokens += said
    return total / tokens


def test_measuring_alone_changes_no_weight(places: tuple[str, str], tmp_path: Path) -> None:
    own, general = places
    registry = Registry.open(tmp_path)
    plain = run(Job(own, "tiny", "support", Recipe(**BRIEF)), registry)
    measured = run(Job(own, "tiny", "support", Recipe(**BRIEF), replay=f"{general}=0"), registry)
    assert measured.ref == "support@v2"
    assert measured.manifest.dataset["replay"]["train_rows"] == 0
    assert "forgetting" in measured.manifest.metrics
    weights = [(version.path / WEIGHTS_FILE).read_bytes() for version in (plain, measured)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("text", ["general.jsonl", "general.jsonl=much", "=0.1", "a.jsonl=0.95"])
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--replay takes a dataset and a share"):
        Replay.parse(text)


def test_a_replay_too_small_to_measure_by_is_refused(
    places: tuple[str, str], tmp_path: Path
) -> None:
    general = tmp_path / "small.jsonl"
    general.write_text('{"prompt": "Hi.", "completion": "Hello."}\n')
    with pytest.raises(InvalidDataset, match="none of its 1 rows is held out"):
        prepared(tmp_path / "a", places[0], f"{general}=0.1")
