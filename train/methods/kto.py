"""Kahneman-Tversky optimisation (arXiv 2402.01306): answers that are desirable, and that are not.

Source: `trl.KTOTrainer`. A preference is two such rows.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Features, Value
from peft import PeftModel
from trl import KTOConfig, KTOTrainer

from adapters.errors import UsageError
from train.columns import FEATURES
from train.methods.base import Setup
from train.methods.reference import use_base_as_reference
from train.methods.rows import proven

_ANSWERS = ("completion_ids",)
_FEATURES = Features({**FEATURES["kto"], "row": Value("int32")})


def trainer(setup: Setup) -> KTOTrainer:
    """See `train.methods.base.Method`."""
    recipe = setup.recipe
    if recipe.loss_type == "kto" and recipe.per_device_train_batch_size < 2:
        raise UsageError(
            "KTO measures how far it went from the base by the other rows of a batch: one is none.",
            fix="Use --per-device-train-batch-size 2 or more, or --loss-type apo_zero_unpaired.",
        )
    train = _mixed(setup.train, recipe.seed)
    held_out = _mixed(setup.held_out, recipe.seed) if setup.held_out is not None else None
    chosen = {
        "max_length": recipe.max_length,  # cuts what was counted as cut
        "beta": recipe.beta,
        "loss_type": recipe.loss_type,
        "desirable_weight": recipe.desirable_weight,
        "undesirable_weight": recipe.undesirable_weight,
        "disable_dropout": not recipe.lora_dropout,  # TRL would turn the adapter's off too
        "precompute_ref_log_probs": not isinstance(setup.model, PeftModel),
        "train_sampling_strategy": "sequential",  # rows are paired within batches beforehand
    }
    made = KTOTrainer(
        model=setup.model,
        args=KTOConfig(**{**setup.arguments, **chosen}),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=setup.tokenizer,
    )
    use_base_as_reference(made.model)
    made.train_dataset = proven(made.train_dataset, train, _ANSWERS)
    if held_out is not None:
        made.eval_dataset = proven(made.eval_dataset, held_out, _ANSWERS)
    return made


def _mixed(rows: Dataset, seed: int) -> Dataset:
    """Return KTO rows shuffled, so that batches hold both kinds; preferences become two each.

    The column `row` says where each comes from.
    """
    rows = rows.add_column("row", list(range(len(rows))), feature=_FEATURES["row"])
    if "chosen" in rows.column_names:
        rows = rows.map(
            _unpaired, batched=True, remove_columns=rows.column_names, features=_FEATURES
        )
    return rows.shuffle(seed=seed).flatten_indices()


def _unpaired(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    shared = ("prompt", "tools", "chat_template_kwargs", "row")
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    halves = [
        {name: row[name] for name in shared}
        | {"completion": row[side], "label": side == "chosen"}
        | {"length": row["lengths"][place], "lengths": [row["lengths"][place]]}
        for row in rows
        for place, side in enumerate(("chosen", "rejected"))
    ]
    return {name: [half[name] for half in halves] for name in _FEATURES}
