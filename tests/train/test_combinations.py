"""Every method with every tuner: what is published is what was measured, or it is refused."""

from __future__ import annotations

import json
import math
import typing
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adapters.errors import UsageError
from adapters.files import WEIGHTS_FILE
from adapters.lint import check_folder, read_base_config
from tests.train.methods import SCORING, TINY, TOKENIZER, preferences, sums
from train.loop import train
from train.methods.kto import _mixed
from train.methods.metrics import even_batch
from train.prepare import Prepared, prepare
from train.recipe import CONVERTED, QUANTISED, TUNERS, Recipe, keys
from train.tokens import render

METHODS = [each for each in typing.get_args(keys()["method"][0]) if each != "sft"]
ONLINE = {
    "reward": (f"{SCORING}:letters",), "num_generations": 4, "max_completion_length": 4,
    "temperature": 3.0, "beta": 0.1, "max_steps": 1,
}  # fmt: skip
OFFERED = [(m, t) for m in METHODS for t in TUNERS if m != "reward" or t in ("lora", "qlora")]


def recipe_of(method: str, tuner: str) -> Recipe:
    own: dict[str, Any] = {"max_steps": 2}
    own |= ONLINE if method in ("grpo", "rloo") else {}
    own |= {"r": 8} if tuner != "full" else {}
    return Recipe(
        method=method, tuner=tuner, target_modules=("q_proj", "down_proj"), warmup_steps=0,
        learning_rate=3e-3, per_device_train_batch_size=8, test_size=0.2, **own,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    """What each method learns from, prepared once."""
    place = tmp_path_factory.mktemp("rows")
    made = {}
    for method in METHODS:
        (place / method).mkdir()
        given = sums() if method in ("grpo", "rloo") else preferences(48)
        dataset = place / f"{method}.jsonl"
        dataset.write_text("".join(json.dumps(row) + "\n" for row in given))
        made[method] = prepare(str(dataset), recipe_of(method, "lora"), TOKENIZER, place / method)
    return made


@pytest.mark.parametrize(("method", "tuner"), OFFERED)
def test_what_comes_out_is_what_was_measured(
    method: str,
    tuner: str,
    rows: dict[str, Prepared],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.loop.write_curve", lambda *_: None)  # half of the time it takes
    recipe, given = recipe_of(method, tuner), rows[method]
    metrics = train(recipe, TINY, TOKENIZER, given.train, given.held_out, out=tmp_path)
    assert all(map(math.isfinite, metrics.values()))
    assert ("conversion_error" in metrics) == (tuner in CONVERTED)
    if tuner in ("pissa", "olora"):
        assert metrics["conversion_error"] < 1e-4
    if tuner == "full":
        before, after = (load_file(each / "model.safetensors") for each in (TINY, tmp_path))
        changed = {name for name in before if not torch.equal(before[name].float(), after[name])}
        assert changed == {name for name in before if "q_proj" in name or "down_proj" in name}
    else:
        report = check_folder(tmp_path, read_base_config(TINY))
        assert not report.findings
        assert report.matched == 10
        factors = load_file(tmp_path / WEIGHTS_FILE)
        assert all(factors[name].any() for name in factors if "lora_B" in name)
    if method in ("grpo", "rloo"):
        # Of the step in which nothing was learnt yet: the reference is the base.
        assert metrics["kl"] == pytest.approx(0, abs=1e-5)
    if method in ("dpo", "kto") and tuner not in QUANTISED:
        for side in ("chosen", "rejected"):
            measured = metrics[f"eval_rewards_{side}"]
            assert measured == pytest.approx(reward(tmp_path, recipe, given, side), abs=1e-3)


@pytest.mark.parametrize("tuner", [each for each in TUNERS if ("reward", each) not in OFFERED])
def test_a_reward_model_with_another_tuner_is_refused(tuner: str) -> None:
    nearest = "qlora" if tuner == "qdora" else "lora"
    with pytest.raises(UsageError, match=f"head of its own.*without one.*--tuner {nearest}"):
        Recipe(method="reward", tuner=tuner)


@torch.inference_mode()
def reward(folder: Path, recipe: Recipe, given: Prepared, side: str) -> float:
    """Return β · how much likelier than to the base answers are to what was written.

    As TRL: the mean of the means of batches, of those that hold such answers.
    """
    assert given.held_out
    if recipe.method == "kto":
        mixed = [dict(row) for row in _mixed(given.held_out, recipe.seed)]
        asked = [(r["prompt"], r["completion"], r["label"] == (side == "chosen")) for r in mixed]
    else:
        asked = [(row["prompt"], row[side], True) for row in given.held_out]
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    before = [logp(base, prompt, answer) for prompt, answer, _ in asked]
    if recipe.tuner == "full":
        made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    else:
        made = PeftModel.from_pretrained(base, folder).eval()
    after = [logp(made, prompt, answer) for prompt, answer, _ in asked]
    size = even_batch(len(given.held_out), recipe.per_device_train_batch_size)
    means = []
    for first in range(0, len(asked), size):
        batch = range(first, min(first + size, len(asked)))
        if found := [after[n] - before[n] for n in batch if asked[n][2]]:
            means.append(fmean(found))
    return recipe.beta * fmean(means)


def logp(model: Any, prompt: Any, answer: Any) -> float:
    whole, asked = (
        TOKENIZER(text, add_special_tokens=False)["input_ids"]
        for text in (
            render([*prompt, *answer], TOKENIZER),
            render(prompt, TOKENIZER, add_generation_prompt=True),
        )
    )
    ids = torch.tensor([whole])
    logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float(logps.gather(1, ids[0, 1:, None])[len(asked) - 1 :].sum())
