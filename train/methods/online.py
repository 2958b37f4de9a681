"""Answers of its own, learnt by the rewards they get: GRPO (arXiv 2402.03300), RLOO (2402.14740).

Sources: `trl.GRPOTrainer`, `trl.RLOOTrainer`, whose prompts are repeated `num_generations` times.
`per_device_train_batch_size` counts answers here.
"""

from __future__ import annotations

import math
import os
from typing import Any

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from adapters.errors import InvalidDataset, UsageError
from train.methods.base import Setup
from train.methods.metrics import even_batch
from train.methods.reference import use_base_as_reference
from train.rewards import load_rewards
from train.tokens import TEMPLATE_KWARGS

_TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
_KEYS = (
    "beta", "num_generations", "max_completion_length", "temperature", "top_p", "top_k",
    "num_iterations", "epsilon", "mask_truncated_completions",
)  # fmt: skip
_GRPO_KEYS = ("loss_type", "scale_rewards")


def trainer(setup: Setup) -> GRPOTrainer | RLOOTrainer:
    """See `train.methods.base.Method`."""
    recipe = setup.recipe
    _check_batch(setup)
    _check_context(setup)
    make, configure = _TRAINERS[recipe.method]
    keys = _KEYS + (_GRPO_KEYS if recipe.method == "grpo" else ())
    tried = recipe.num_generations
    most = math.ceil(recipe.per_device_train_batch_size / tried)
    asked = even_batch(len(setup.held_out or [0]), most, recipe.num_processes)
    chosen = {
        **{key: getattr(recipe, key) for key in keys},
        "reward_weights": list(recipe.reward_weights) or None,
        "chat_template_kwargs": dict(TEMPLATE_KWARGS),
        "per_device_eval_batch_size": asked * tried,
    }
    made = make(
        model=setup.model,
        args=configure(**{**setup.arguments, **chosen}),
        reward_funcs=list(load_rewards(recipe)),
        train_dataset=setup.train,
        eval_dataset=setup.held_out,
        processing_class=setup.tokenizer,
    )
    use_base_as_reference(made.model)
    return made


def _check_batch(setup: Setup) -> None:
    """Check that the answers of a prompt come in one step, and that there are prompts enough.

    TRL takes whole steps of prompts: those left over in one pass come in another, as each is
    shuffled anew.
    """
    recipe, processes = setup.recipe, int(os.environ.get("WORLD_SIZE", "1"))
    a_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * processes
    tried = recipe.num_generations
    if a_step % tried:
        enough = math.ceil(recipe.per_device_train_batch_size / tried) * tried
        raise UsageError(
            f"A step learns from {a_step} answers, of which {tried} are tried of each prompt.",
            fix=f"Use --per-device-train-batch-size {enough}, or --num-generations that divides "
            f"{a_step}.",
        )
    if a_step // tried > len(setup.train):
        raise InvalidDataset(
            f"A step learns from {a_step // tried} prompts; there are {len(setup.train)}.",
            fix="Give it more prompts, or lower --per-device-train-batch-size.",
        )


def _check_context(setup: Setup) -> None:
    """Check that every prompt leaves room for its answer."""
    recipe = setup.recipe
    holds = getattr(setup.model.config.get_text_config(), "max_position_embeddings", None)
    sides: list[Any] = [setup.train, setup.held_out]
    longest = max(max(side["length"]) for side in sides if side is not None)
    if holds and longest + recipe.max_completion_length > holds:
        room = holds - longest
        raise UsageError(
            f"The longest prompt has {longest} tokens and an answer may have "
            f"{recipe.max_completion_length}: this base holds {holds}.",
            fix=f"Use --max-completion-length {room}, or leave long prompts out: --max-length."
            if room > 0
            else f"Leave long prompts out: --max-length {holds - recipe.max_completion_length}.",
        )
