"""One run: a base, what learns of it, a method's trainer. Read it from top to bottom.

Does not read datasets (`train/prepare.py`) or publish (`train/run.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed

from train.methods import Setup, method
from train.recipe import Recipe
from train.tuners import attach, checkpoints_gradients, compute_dtype, keep_in_float32, load_base

Progress = Callable[[int, int, float], None]
"""Called after each step with its number, the number of all steps, and the training loss."""


def train(
    recipe: Recipe,
    base: Path,
    tokenizer: Any,
    rows: Dataset,
    held_out: Dataset | None,
    *,
    out: Path,
    progress: Progress = lambda step, steps, loss: None,
) -> dict[str, float]:
    """Train one adapter and write it into `out` as PEFT does; return its metrics.

    `rows`, `held_out`: what the recipe's method takes, for SFT of each row `input_ids` and
    `labels`, both (tokens,). The same recipe, rows and seed give the same weights on one machine.

    Raises:
        UsageError: the recipe does not fit the base (a target module it does not have).
    """
    set_seed(recipe.seed)
    # 1) The base, frozen: in NF4 with double quantisation, or as it is.
    dtype = compute_dtype(base)
    model = load_base(base, recipe, dtype)

    # 2) The adapter, all that learns.
    model = attach(model, recipe)

    # 3) The run.
    arguments = _arguments(recipe, dtype, out)
    trainer = method(recipe.method)(Setup(recipe, model, tokenizer, rows, held_out, arguments))
    keep_in_float32(model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Report(progress))
    trained = trainer.train()

    # 4) What it learned, and the adapter itself.
    metrics = {"train_loss": trained.training_loss, "steps": float(trained.global_step)}
    metrics["train_runtime_s"] = round(trained.metrics["train_runtime"], 1)
    if held_out is not None:
        metrics["eval_loss"] = trainer.evaluate()["eval_loss"]
    trainer.model.save_pretrained(out, safe_serialization=True)
    return metrics


def _arguments(recipe: Recipe, dtype: torch.dtype, out: Path) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "per_device_eval_batch_size": recipe.per_device_train_batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": recipe.warmup_steps,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": recipe.optim,
        "gradient_checkpointing": checkpoints_gradients(recipe),
        "train_sampling_strategy": recipe.train_sampling_strategy,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self._progress(state.global_step, state.max_steps, float(logs["loss"]))
