"""Direct preference optimisation (arXiv 2305.18290) and its kin: of two answers the better one.

Source: `trl.DPOTrainer`, whose `loss_type` names the others.
"""

from __future__ import annotations

from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from train.methods.base import Setup
from train.methods.reference import use_base_as_reference
from train.methods.rows import proven

_ANSWERS = ("chosen_ids", "rejected_ids")


def trainer(setup: Setup) -> DPOTrainer:
    """See `train.methods.base.Method`."""
    recipe = setup.recipe
    arguments = DPOConfig(
        **setup.arguments,
        max_length=recipe.max_length,  # cuts what was counted as cut
        beta=recipe.beta,
        loss_type=[recipe.loss_type],
        label_smoothing=recipe.label_smoothing,
        disable_dropout=not recipe.lora_dropout,  # TRL would turn the adapter's off too
        precompute_ref_log_probs=not isinstance(setup.model, PeftModel),
        remove_unused_columns=False,  # rows are grouped by their `length`
    )
    made = DPOTrainer(
        model=setup.model,
        args=arguments,
        train_dataset=setup.train,
        eval_dataset=setup.held_out,
        processing_class=setup.tokenizer,
    )
    use_base_as_reference(made.model)
    made.train_dataset = proven(made.train_dataset, setup.train, _ANSWERS)
    if setup.held_out is not None:
        made.eval_dataset = proven(made.eval_dataset, setup.held_out, _ANSWERS)
    return made
