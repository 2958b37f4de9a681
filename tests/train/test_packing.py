"""Rows that share a sequence teach what they teach alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from adapters import bases
from adapters.errors import Rejected
from train.before import load_tokenizer
from train.methods import Setup, method
from train.packing import pack, prove
from train.recipe import Recipe
from train.tuners import attach, load_base

LENGTHS = (30, 7, 19, 4, 25, 11, 2, 30)


@pytest.fixture
def rows() -> Dataset:
    """Rows whose first half is the prompt, and so not learnt."""
    chance = torch.Generator().manual_seed(0)
    drawn = [torch.randint(5, 500, (size,), generator=chance).tolist() for size in LENGTHS]
    return Dataset.from_list(
        [
            {"input_ids": ids, "labels": [-100] * (len(ids) // 2) + ids[len(ids) // 2 :]}
            for ids in drawn
        ]
    )


def model() -> PeftModel:
    """Return the tiny base with an adapter that does something."""
    recipe = Recipe(tuner="lora", r=4)
    torch.manual_seed(0)
    found = attach(load_base(bases.resolve("tiny").path, recipe, torch.float32), recipe)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return found


def test_no_row_is_cut_or_lost(rows: Dataset) -> None:
    packed, members = pack(rows, 32)
    found: dict[int, list[int]] = {}
    for sequence, owners in zip(packed, members, strict=True):
        assert len(sequence["input_ids"]) == len(sequence["labels"]) == len(owners) <= 32
        for owner, token in zip(owners, sequence["input_ids"], strict=True):
            found.setdefault(owner, []).append(token)
    assert found == dict(enumerate(rows["input_ids"]))
    assert len(packed) < len(rows)


def test_packed_and_unpacked_rows_give_the_same_loss_and_gradients(
    rows: Dataset, tmp_path: Path
) -> None:
    """Through the trainer that a run uses, batch and all."""
    learnt = torch.tensor(sum(label != -100 for labels in rows["labels"] for label in labels))
    packed, _ = pack(rows, 64)
    gradients, losses = [], []
    for sequences, recipe in ((rows, Recipe()), (packed, Recipe(packing=True))):
        arguments = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True,
                     "bf16": False, "gradient_checkpointing": False}  # fmt: skip
        tokenizer = load_tokenizer(bases.resolve("tiny").path)
        trainer = method("sft")(Setup(recipe, model(), tokenizer, sequences, None, arguments))
        (batch,) = trainer.get_train_dataloader()
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=learnt)
        loss.backward()
        losses.append(loss.item())
        learning = trainer.model.named_parameters()
        gradients.append({name: part.grad for name, part in learning if part.requires_grad})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(gradients[0]) > 40
    for name, alone in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], alone, rtol=1e-3, atol=1e-6, msg=name)


def test_a_base_that_tells_rows_apart_is_proven_to(rows: Dataset) -> None:
    prove(model(), rows)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("mamba", {"num_hidden_layers": 2, "state_size": 8}),  # a state that runs on
        ("bloom", {"n_layer": 2, "n_head": 4}),  # positions that are not asked for
    ],
)
def test_a_base_whose_rows_would_see_each_other_is_refused(
    rows: Dataset, kind: str, shape: dict[str, int]
) -> None:
    config = AutoConfig.for_model(kind, vocab_size=512, hidden_size=32, **shape)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    with pytest.raises(Rejected, match=f"In {kind} packed rows see each other"):
        prove(base, rows)
