"""Each method's adapter, trained, published, and served by the real vLLM as PEFT answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from adapters.registry import Registry
from adapters.types import Version
from tests.e2e import lint_kinds, offline
from tests.e2e.test_lint_matrix import MAX_TOKENS, PROMPTS, Answers, by_peft, greedy
from tests.train.methods import preferences, sums
from train.recipe import Recipe
from train.run import Job, run

TINY = str(lint_kinds.TINY)
BRIEF = {"max_steps": 2, "r": 8, "learning_rate": 5e-3, "warmup_steps": 0.0, "test_size": 0.1}
ONLINE = {"reward": ("length:3-3",), "max_completion_length": 4, "num_generations": 4}
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "kto": {"tuner": "lora"},
    "grpo": ONLINE,
    "rloo": ONLINE | {"tuner": "lora"},
    "reward": {},
}
"""By QLoRA where nothing else is said."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def versions(place: Path) -> dict[str, Version]:
    """One version a method."""
    preferred, asked = place / "preferred.json", place / "asked.json"
    preferred.write_text(json.dumps(preferences(30)))
    asked.write_text(json.dumps(sums()[:30]))
    registry = Registry.open(place / "registry")
    made = {}
    for method, more in METHODS.items():
        rows = preferred if method in ("dpo", "kto", "reward") else asked
        recipe = Recipe(method=method, **BRIEF | more)
        made[method] = run(Job(str(rows), "tiny", method, recipe), registry)
    return made


def test_every_version_is_linted_servable_and_keeps_its_methods_metrics(
    versions: dict[str, Version],
) -> None:
    for method, version in versions.items():
        assert version.manifest.lint["passed"], method
        assert version.manifest.recipe["method"] == method
        assert version.manifest.metrics["eval_loss"] is not None
    assert "eval_rewards_margins" in versions["dpo"].manifest.metrics
    assert "eval_reward" in versions["grpo"].manifest.metrics
    assert "eval_accuracy" in versions["reward"].manifest.metrics
    assert [w["check"] for w in versions["reward"].manifest.lint["warnings"]] == ["classifier"]


def test_vllm_answers_as_peft_does(versions: dict[str, Version], place: Path) -> None:
    folders = {name: v.path for name, v in versions.items() if name != "reward"}
    request = {"base": TINY, "prompts": PROMPTS, "max_tokens": MAX_TOKENS}
    told = {name: str(folder) for name, folder in folders.items()}
    raw = offline.ask("tests.e2e.raw_vllm", place, request | {"folders": told})
    base = greedy(lint_kinds.base_model())
    assert base
    assert Answers(**raw[""]).near(base)
    for method, folder in folders.items():
        said, meant = Answers(**raw[method]), by_peft(folder)
        assert meant, method
        assert said.near(meant), method
        assert not said.near(base), f"{method} has learnt nothing that shows"


def test_a_vllm_that_classifies_gives_the_reward_models_numbers(
    versions: dict[str, Version], place: Path
) -> None:
    version = versions["reward"]
    (warning,) = version.manifest.lint["warnings"]
    overrides = json.loads(re.findall(r"'(\{.*\})'", warning["fix"])[0])
    request = {"base": TINY, "prompts": PROMPTS, "hf_overrides": overrides}
    raw = offline.ask(
        "tests.e2e.raw_classifier", place, request | {"folders": {"judge": str(version.path)}}
    )
    base = AutoModelForSequenceClassification.from_pretrained(
        TINY, num_labels=1, dtype=torch.float32
    )
    judge = PeftModel.from_pretrained(base, version.path).eval()
    with torch.inference_mode():
        numbers = [judge(input_ids=torch.tensor([prompt])).logits.item() for prompt in PROMPTS]
    assert raw["judge"] == pytest.approx(numbers, abs=1e-4)
    assert numbers[0] != pytest.approx(numbers[1], abs=1e-3)
