"""Supervised fine-tuning: TRL's SFTTrainer on token ids and labels that are made already."""

from __future__ import annotations

from trl import SFTConfig, SFTTrainer

from train.methods.base import Setup


def trainer(setup: Setup) -> SFTTrainer:
    """See `train.methods.base.Method`."""
    arguments = {**setup.arguments, "padding_free": setup.recipe.packing}
    return SFTTrainer(
        model=setup.model,
        args=SFTConfig(**arguments, max_length=None),  # cut, counted and packed already
        train_dataset=setup.train,
        eval_dataset=setup.held_out,
        processing_class=setup.tokenizer,
    )
