"""What each tuner makes, served by the real vLLM with the answers of what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from adapters.demo.task import split
from adapters.registry import Registry
from tests.e2e import lint_kinds, offline
from tests.e2e.test_lint_matrix import MAX_TOKENS, PROMPTS, Answers, by_peft, greedy
from train import tuners
from train.extract import Extraction, extract
from train.recipe import LOW_RANK, Recipe
from train.run import Job, run, run_full

TINY = str(lint_kinds.TINY)
BRIEF: dict[str, Any] = {"max_steps": 3, "learning_rate": 5e-3, "warmup_steps": 0.0, "test_size": 0}
WHOLE = 192
"""The tiny base's width: a rank that loses nothing."""
MORE: dict[str, dict[str, Any]] = {
    "lora": {"use_rslora": True, "loraplus_lr_ratio": 4.0},
    "dora": {"convert_rank": WHOLE},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuners")


@pytest.fixture(scope="module")
def rows(place: Path) -> str:
    path = place / "support.jsonl"
    path.write_text("".join(json.dumps(each.row()) + "\n" for each in split(24, 1)[0]))
    return str(path)


@pytest.fixture(scope="module")
def made(place: Path, rows: str) -> dict[str, tuple[Path, Answers | None]]:
    """A version's folder for each tuner, with the answers of what it was before conversion."""
    registry, trained = Registry.open(place / "registry"), []
    make_plain = tuners.make_plain

    def spied(model: Any, *arguments: Any) -> Any:
        with torch.inference_mode():
            trained.append(greedy(model.eval()))
        return make_plain(model, *arguments)

    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tuners, "make_plain", spied)
        for tuner in LOW_RANK:
            recipe = Recipe(tuner=tuner, **BRIEF, **{"r": 8, **MORE.get(tuner, {})})
            version = run(Job(rows, "tiny", tuner, recipe), registry)
            on_nf4 = recipe.quantised  # the server's base is not
            found[tuner] = (version.path, trained.pop() if trained and not on_nf4 else None)
            trained.clear()
    return found


@pytest.fixture(scope="module")
def full(place: Path, rows: str) -> Path:
    """A full fine-tune of the projections."""
    chosen = BRIEF | {"learning_rate": 1e-3, "target_modules": "all-linear"}
    job = Job(rows, "tiny", None, Recipe(tuner="full", **chosen), output_dir=place / "full")
    return run_full(job).path


@pytest.fixture(scope="module")
def base() -> Answers:
    return by_transformers(lint_kinds.base_model())


@pytest.fixture(scope="module")
def tuned(full: Path, base: Answers) -> Answers:
    """What the full fine-tune says by transformers."""
    said = by_transformers(AutoModelForCausalLM.from_pretrained(full, dtype=torch.float32).eval())
    assert not said.near(base), "it has learnt nothing that shows"
    return said


@torch.inference_mode()
def by_transformers(model: torch.nn.Module) -> Answers:
    said = greedy(model)
    assert said
    return said


def by_vllm(place: Path, model: str, folders: dict[str, Path]) -> dict[str, Any]:
    told = {name: str(folder) for name, folder in folders.items()}
    request = {"base": model, "folders": told, "prompts": PROMPTS, "max_tokens": MAX_TOKENS}
    return offline.ask("tests.e2e.raw_vllm", place, request | {"max_lora_rank": 256})


@torch.inference_mode()
def test_adapters_answer_as_what_was_trained(
    made: dict[str, tuple[Path, Answers | None]],
    full: Path,
    base: Answers,
    tuned: Answers,
    place: Path,
) -> None:
    registry = Registry.open(place / "registry")
    extracted = extract(Extraction("tiny", str(full), "extracted", WHOLE), registry).version
    folders = {tuner: folder for tuner, (folder, _) in made.items()}
    served = by_vllm(place, TINY, folders | {"extracted": extracted.path})
    for tuner, (folder, trained) in made.items():
        said, by_adapter = Answers(**served[tuner]), by_peft(folder)
        assert by_adapter
        assert said.near(by_adapter), tuner
        assert not said.near(base), f"{tuner} has learnt nothing that shows"
        assert (trained is not None) == (tuner in ("dora", "pissa", "olora"))
        if trained:
            assert said.near(trained), tuner
    assert Answers(**served["extracted"]).near(tuned)


def test_a_full_model_is_a_base_that_answers_as_it_was_trained(
    full: Path, tuned: Answers, place: Path
) -> None:
    assert Answers(**by_vllm(place, str(full), {})[""]).near(tuned)
