"""A method's trainer on the tiny base, with little to do, ready to be started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, set_seed

from adapters import bases
from train.before import load_tokenizer
from train.loop import _arguments
from train.methods import Setup, method
from train.prepare import Prepared, prepare
from train.recipe import Recipe
from train.tuners import attach, keep_in_float32, load_base

TINY = bases.resolve("tiny").path
TOKENIZER = load_tokenizer(TINY)
SCORING = Path(__file__).with_name("scoring.py")
COLOURS = ("red", "green", "blue", "black", "white", "pink")


def preferences(count: int) -> list[dict[str, Any]]:
    """Return rows that prefer the colour asked for to another one."""
    wanted = [COLOURS[n % len(COLOURS)] for n in range(count)]
    others = [COLOURS[(n + 1 + n // len(COLOURS) % 5) % len(COLOURS)] for n in range(count)]
    return [
        {"prompt": f"Paint number {n} {chosen}.", "chosen": chosen, "rejected": rejected}
        for n, (chosen, rejected) in enumerate(zip(wanted, others, strict=True))
    ]


def sums() -> list[dict[str, Any]]:
    """Return additions, some of which the tiny base gets right."""
    return [
        {"prompt": f"What is {a} + {b}?", "completion": str(a + b), "less": a}
        for a in range(1, 10)
        for b in range(1, 10)
    ]


def made(
    name: str, rows: Sequence[dict[str, Any]], place: Path, *, tokenizer: Any = None, **chosen: Any
) -> tuple[Trainer, Prepared]:
    """Return a method's trainer, as `train.loop` makes it, and the rows that it was given."""
    place.mkdir(parents=True, exist_ok=True)
    dataset = place / "rows.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(**{"tuner": "lora", "test_size": 0.2, "r": 8, **chosen}, method=name)
    tokenizer = tokenizer or TOKENIZER
    prepared = prepare(str(dataset), recipe, tokenizer, place)
    set_seed(recipe.seed)
    model = attach(load_base(TINY, recipe, torch.float32), recipe)
    arguments = _arguments(recipe, torch.float32, place, prepared.held_out)
    setup = Setup(recipe, model, tokenizer, prepared.train, prepared.held_out, arguments)
    trainer = method(name)(setup)
    keep_in_float32(model)
    return trainer, prepared
