"""How much of what the base knew a run has cost, on rows that it did not train on.

    forgetting = L(adapter) - L(base),  L = -1/N Σ log p(t | all before it), in nats a token

over the N tokens t that the assistant says in the rows. 0: nothing is forgotten; 0.1: tokens to
which the base gave a probability p now have p / e^0.1, a tenth less; below 0: it got better there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from train.tokens import IGNORED


@torch.no_grad()
def token_scores(model: PreTrainedModel, rows: Dataset, batch: int) -> tuple[float, float]:
    """Return the loss (nats a token) and the accuracy (share of tokens guessed) of rows.

    `rows`: `input_ids` and `labels`, both (tokens,); tokens whose label is -100 do not count.
    """
    was_training = model.training
    model.eval()
    loss, right, tokens = 0.0, 0, 0
    with _without_logits(model):
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            width = max(map(len, some["input_ids"]))
            ids, labels, mask = (
                torch.tensor([row + [fill] * (width - len(row)) for row in column]).to(model.device)
                for column, fill in (
                    (some["input_ids"], 0),
                    (some["labels"], IGNORED),
                    ([[1] * len(row) for row in some["input_ids"]], 0),
                )
            )
            found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
            loss -= found.log_probs.double().sum().item()
            right += int(found.is_top1.sum())
            tokens += int(found.label_mask.sum())
    model.train(was_training)
    return loss / max(tokens, 1), right / max(tokens, 1)


@contextmanager
def _without_logits(model: PreTrainedModel) -> Iterator[None]:
    """Have a model score labels as TRL's trainers do: its logits (rows, tokens, vocabulary) would
    take more memory than all of the training.
    """
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    before = vars(inner).get("forward")
    add_fused_lm_head(inner, outputs=("log_probs", "is_top1"))
    try:
        yield
    finally:
        if before is None:
            del inner.forward
        else:
            inner.forward = before
