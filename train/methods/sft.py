"""Supervised fine-tuning: TRL's SFTTrainer on token ids and labels that are made already."""

from __future__ import annotations

from trl import SFTConfig, SFTTrainer

from train.methods.base import Setup


def trainer(setup: Setup) -> SFTTrainer:
    """See `train.methods.base.Method`."""
    return SFTTrainer(
        model=setup.model,
        args=SFTConfig(**setup.arguments, max_length=None),  # cut and counted already
        train_dataset=setup.train,
        eval_dataset=setup.held_out,
        processing_class=setup.tokenizer,
    )
