"""A run's metrics against the same sums made plainly: row by row, with transformers and PEFT."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters import bases
from adapters.registry import Registry
from adapters.selection import Condition
from adapters.types import Version
from train.evaluation import answers, questions
from train.prepare import prepare
from train.recipe import Recipe
from train.run import Job, run

BASE = bases.resolve("tiny").path
RECIPE = Recipe(
    tuner="lora", r=8, learning_rate=3e-3, max_steps=10, test_size=0.15, generate_eval=True,
    max_new_tokens=40, max_predict_samples=10,
)  # fmt: skip
TINY = AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dataset") / "support.jsonl"
    kinds = ("card", "refund", "delivery", "password")
    rows = [
        {
            "prompt": f"Ticket {n}: about my {kinds[n % 4]}",
            "completion": f'{{"on": "{kinds[n % 4]}"}}',
        }
        for n in range(160)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def version(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Version:
    home = tmp_path_factory.mktemp("registry")
    return run(Job(dataset, "tiny", "support", RECIPE), Registry.open(home))


@pytest.fixture(scope="module")
def held_out(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = prepare(dataset, RECIPE, TINY, tmp_path_factory.mktemp("rows")).held_out
    assert rows is not None
    return rows


@pytest.fixture(scope="module")
def model(version: Version) -> Any:
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    return PeftModel.from_pretrained(base, version.path).eval()


@torch.no_grad()
def test_loss_perplexity_and_accuracy_are_over_the_answers_tokens(
    version: Version, held_out: Dataset, model: Any
) -> None:
    loss, right, tokens = 0.0, 0, 0
    for row in held_out:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for at, label in enumerate(row["labels"][1:]):
            if label != -100:
                loss -= logits[at, label].item()
                right += int(logits[at].argmax() == label)
                tokens += 1
    metrics = version.manifest.metrics
    assert metrics["eval_loss"] == pytest.approx(loss / tokens, rel=1e-4)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(loss / tokens), rel=1e-3)
    assert metrics["eval_mean_token_accuracy"] == pytest.approx(right / tokens, abs=1e-3)


@torch.no_grad()
def test_answers_are_scored_as_if_each_was_asked_alone(
    version: Version, held_out: Dataset, model: Any
) -> None:
    asked = list(questions(held_out, TINY, {TINY.eos_token_id}))[:10]
    right = 0
    for question in asked:
        assert TINY.decode(question.prompt).endswith("<|im_start|>assistant\n")
        ids = torch.tensor([question.prompt])
        said = model.generate(input_ids=ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
        right += TINY.decode(said, skip_special_tokens=True).strip() == question.reference
    assert 0 < right < 10, "there is something to tell apart"
    metrics = version.manifest.metrics
    assert metrics["eval_generated_rows"] == 10
    assert metrics["eval_exact_match"] == right / 10
    assert metrics["eval_exact_match_low"] <= right / 10 <= metrics["eval_exact_match_high"]
    assert 0 < metrics["eval_rougeL"] <= metrics["eval_rouge1"] <= 1
    assert 0 < metrics["eval_bleu"] <= 100
    assert metrics["eval_valid_json"] >= metrics["eval_exact_match"], "the references are JSON"
    assert all(isinstance(value, float) for value in metrics.values())


def test_they_are_found_by_and_shown_on_the_card(version: Version) -> None:
    metrics = version.manifest.metrics
    assert Condition.parse(f"eval_loss<{metrics['eval_loss'] + 1e-9}").holds(version)
    assert not Condition.parse("eval_rougeL>1").holds(version)
    text = (version.path / "README.md").read_text()
    assert f"| eval_exact_match | {metrics['eval_exact_match']:.4g} |" in text
    assert "![Loss by step](loss.png)" in text
    last = (version.path / "loss.csv").read_text().splitlines()[-1]
    assert str(metrics["eval_loss"]) in last
    assert {"loss.png", "loss.svg", "loss.csv"} <= version.manifest.files.keys()
    assert version.manifest.dataset["parity"] == {
        "rows": 64,
        "stop_token": "<|im_end|>",
        "chat_template_kwargs": {},
    }
    assert version.manifest.serving == {}


def test_a_batch_of_prompts_is_answered_like_each_alone(held_out: Dataset, model: Any) -> None:
    prompts = [question.prompt for question in questions(held_out, TINY, {2})][:6]
    prompts[0] = prompts[0][-9:]  # so that the others leave it much padding
    options = {"max_new_tokens": 24}
    together = answers(model, TINY, prompts, batch_size=4, **options)
    assert together == [answers(model, TINY, [p], batch_size=1, **options)[0] for p in prompts]


def test_the_last_answer_is_asked_for_and_what_was_cut_is_not() -> None:
    said = {"input_ids": [5, 6, 7, 2, 8, 9, 2], "labels": [-100, -100, 7, 2, -100, 9, 2]}
    cut = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    rows = Dataset.from_list([said, cut])
    (only,) = questions(rows, TINY, {2})
    assert only.prompt == [5, 6, 7, 2, 8]
    assert only.reference == TINY.decode([9])
    more = {"input_ids": [5, 9, 2, 198], "labels": [-100, 9, 2, 198]}  # what follows is not said
    (only,) = questions(Dataset.from_list([more]), TINY, {2})
    assert only.reference == TINY.decode([9])


def test_preferences_are_asked_for_their_better_answer() -> None:
    chat = [{"role": "user", "content": "hi"}]
    rows = [
        {"prompt": chat, "chosen": [{"role": "assistant", "content": "hello"}], "tools": None},
        {"prompt": chat, "answer": "hey", "tools": None},
        {"prompt": chat, "completion": [{"content": "no"}], "label": False, "tools": None},
    ]
    found = list(questions(rows, TINY, {2}))  # type: ignore[arg-type]
    assert [question.reference for question in found] == ["hello", "hey"]
    assert TINY.decode(found[0].prompt).endswith("<|im_start|>assistant\n")
