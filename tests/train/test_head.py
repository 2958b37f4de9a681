"""The head's loss on a CPU: the model's own, of learnt tokens alone, in small tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl.kernels import chunked_logprob

from adapters import bases
from tests.train.test_loop import BRIEF, rows, trained
from train.head import TILE_VOCABULARY
from train.recipe import Recipe

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="A GPU folds tiles in place.")


def masked(drawn: Dataset, prompt: int) -> Dataset:
    def mask(row: dict[str, list[int]]) -> dict[str, list[int]]:
        return {"labels": [-100] * prompt + row["labels"][prompt:]}

    return drawn.map(mask)


def test_it_is_the_models_own_loss_of_learnt_tokens_in_small_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = masked(rows(4), prompt=4)
    learnt = [[token for token in labels[1:] if token != -100] for labels in given["labels"]]
    tiles, fold = [], chunked_logprob._forward_tile

    def noted(tile: torch.Tensor, *arguments: object, **options: object) -> None:
        tiles.append(tuple(tile.shape))
        fold(tile, *arguments, **options)

    monkeypatch.setattr(chunked_logprob, "_forward_tile", noted)
    logs, _ = trained(tmp_path / "out", Recipe(**BRIEF, max_steps=1), given=given)

    model = AutoModelForCausalLM.from_pretrained(bases.resolve("tiny").path, dtype=torch.float32)
    with torch.no_grad():
        losses = [
            model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
            .loss.item()
            for row in given
        ]  # fmt: skip
    counts = [len(tokens) for tokens in learnt]
    own = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert logs.of("loss")[0] == pytest.approx(own, rel=1e-4)
    assert {shape[0] for shape in tiles} == {sum(counts)}
    assert max(shape[1] for shape in tiles) <= TILE_VOCABULARY < model.config.vocab_size
