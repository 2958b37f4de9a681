"""What a trained model makes of the rows held out: token by token, and in answers it writes.

In the process that trained, so on the base as it was trained on (in NF4 under `qlora`): the
server, whose base is whole, may score a little better or worse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer

from train.forgetting import token_scores
from train.methods.metrics import closing
from train.parity import stop_tokens
from train.recipe import Recipe
from train.scores import scores
from train.tokens import IGNORED, render


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as the server would send it, and the answer it should get."""

    prompt: list[int]
    reference: str


def evaluate(trainer: Trainer, tokenizer: Any, rows: Dataset, recipe: Recipe) -> dict[str, float]:
    """Return the metrics of held-out rows, and log them where the trainer logs.

    Of SFT, over all N tokens t that the loss falls on:

        eval_loss = -1/N Σ log p(t | all before it)         eval_perplexity = exp(eval_loss)
        eval_mean_token_accuracy = 1/N Σ [t is the likeliest token there]

    Other methods' `eval_loss` is their trainer's own; what else they keep, `train.methods.metrics`
    says. With `generate_eval`, `generation_metrics`.
    """
    if recipe.method == "sft":
        # Not the trainer's: a mean of batches' means, it would weigh tokens of short answers more.
        with trainer.accelerator.autocast():
            loss, accuracy = token_scores(trainer.model, rows, recipe.per_device_train_batch_size)
        found = {"eval_loss": loss, "eval_mean_token_accuracy": accuracy}
        found["eval_perplexity"] = math.exp(min(loss, 700))  # beyond it there is no float
    else:
        said = trainer.evaluate()
        found = {"eval_loss": said["eval_loss"]}
        found |= closing(recipe.method, said, trainer.state.log_history)
    if recipe.generate_eval:
        with trainer.accelerator.autocast():
            found |= generation_metrics(trainer.model, tokenizer, rows, recipe)
    trainer.log({key: value for key, value in found.items() if key.startswith("eval_")})
    return found


def generation_metrics(
    model: PreTrainedModel, tokenizer: Any, rows: Dataset, recipe: Recipe
) -> dict[str, float]:
    """Return the scores of greedy answers to held-out rows, the first that can be asked.

    Names: see `train.scores.scores`; `eval_generated_rows` says how many they were. Nothing where
    no row can be asked.
    """
    asked = list(
        islice(questions(rows, tokenizer, stops_of(model, tokenizer)), recipe.max_predict_samples)
    )
    if not asked:
        return {}
    texts = answers(
        model,
        tokenizer,
        [question.prompt for question in asked],
        max_new_tokens=recipe.max_new_tokens,
        batch_size=recipe.per_device_train_batch_size,
    )
    metrics = scores(texts, [question.reference for question in asked])
    return {**metrics, "eval_generated_rows": float(len(asked))}


def questions(rows: Dataset, tokenizer: Any, stops: set[int]) -> Iterator[Question]:
    """Yield the last answer of each row as a question.

    Left out: rows whose answer was cut at `max_length`, and of KTO those that are undesirable.
    """
    for row in rows:
        if "input_ids" in row:
            ids, labels = row["input_ids"], row["labels"]
            end = len(labels)
            while end and labels[end - 1] == IGNORED:
                end -= 1
            start = end
            while start and labels[start - 1] != IGNORED:
                start -= 1
            said = ids[start:end]
            stop = next((at for at, token in enumerate(said) if token in stops), None)
            if stop is not None:
                yield Question(ids[:start], _text(tokenizer, said[:stop]))
            continue
        if row.get("label") is False:
            continue
        answer = row.get("chosen") or row.get("completion") or row.get("answer")
        if answer is not None:
            wanted = answer if isinstance(answer, str) else answer[-1]["content"]
            tools = json.loads(row["tools"]) if row.get("tools") else ()
            prompt = render(row["prompt"], tokenizer, tools, add_generation_prompt=True)
            yield Question(tokenizer(prompt, add_special_tokens=False)["input_ids"], wanted)


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Return what a model says greedily to prompts (tokens,), up to where the server would stop."""
    model.eval()
    stops = sorted(stops_of(model, tokenizer))
    said = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))  # alike in length: quicker
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = max(len(prompts[at]) for at in batch)
        pads = [longest - len(prompts[at]) for at in batch]  # at the left, as answers come right
        ids = [[stops[0]] * pad + list(prompts[at]) for at, pad in zip(batch, pads, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
        tokens = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        for at, row in zip(batch, tokens[:, longest:].tolist(), strict=True):
            end = next((i for i, token in enumerate(row) if token in stops), len(row))
            said[at] = _text(tokenizer, row[:end])
    return said


def stops_of(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Return the tokens at which the server ends an answer."""
    return stop_tokens(tokenizer, model.generation_config.eos_token_id)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))
