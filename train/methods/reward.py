"""A reward model: one number for a chat, higher for the better of two answers.

Source: `trl.RewardTrainer`. The base is a sequence classifier with one output, whose head `score`
is trained whole and saved with the adapter (see `train.tuners`).
"""

from __future__ import annotations

import json
from typing import Any

from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from train.methods.base import Setup
from train.tokens import render


def trainer(setup: Setup) -> RewardTrainer:
    """See `train.methods.base.Method`."""
    recipe = setup.recipe
    return RewardTrainer(
        model=setup.model,
        args=RewardConfig(
            **setup.arguments,
            max_length=None,  # TRL would leave longer rows out; they are cut here
            center_rewards_coefficient=recipe.center_rewards_coefficient or None,
            disable_dropout=not recipe.lora_dropout,  # TRL would turn the adapter's off too
            remove_unused_columns=False,  # rows are grouped by their `length`
        ),
        train_dataset=_tokenised(setup, setup.train),
        eval_dataset=_tokenised(setup, setup.held_out) if setup.held_out is not None else None,
        processing_class=setup.tokenizer,
    )


def _tokenised(setup: Setup, rows: Dataset) -> Dataset:
    """Return `chosen_ids` and `rejected_ids` of whole chats, and their `length`."""
    tokenizer, most = setup.tokenizer, setup.recipe.max_length

    def ids(row: dict[str, Any], side: str) -> list[int]:
        tools = json.loads(row["tools"]) if row["tools"] else ()
        text = render([*row["prompt"], *row[side]], tokenizer, tools)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"][:most])

    return rows.map(
        lambda row: {"chosen_ids": ids(row, "chosen"), "rejected_ids": ids(row, "rejected")},
        remove_columns=[name for name in rows.column_names if name != "length"],
    )
