"""One run: a base, what learns of it, a method's trainer. Read it from top to bottom.

Does not read datasets (`train/prepare.py`) or publish (`train/run.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, set_seed

from adapters.errors import UsageError
from train import packing
from train.answers import Answers
from train.checkpoints import Checkpoints
from train.evaluation import evaluate
from train.forgetting import token_scores
from train.guards import Guards
from train.head import use_small_tiles
from train.methods import Setup, method
from train.methods.metrics import BEST, even_batch
from train.methods.rows import sources
from train.order import fix_order
from train.plain import beginning
from train.plots import write_curve
from train.recipe import Recipe
from train.tuners import (
    attach,
    checkpoints_gradients,
    compute_dtype,
    keep_in_float32,
    load_base,
    set_rates,
    write_outcome,
)


def train(
    recipe: Recipe,
    base: Path,
    tokenizer: Any,
    rows: Dataset,
    held_out: Dataset | None,
    *,
    out: Path,
    places: Sequence[str] = (),
    retained: Dataset | None = None,
    checkpoints: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """Train an adapter, or a model, and write it into `out`; return its metrics.

    `rows`, `held_out`: what the recipe's method takes, for SFT of each row `input_ids` and
    `labels`, both (tokens,). `places`: `file:line` of each of `rows`, for messages. `retained`:
    rows that measure forgetting (see `train.forgetting`). `checkpoints`: a folder to write them to,
    and to go on from where it holds one (see `train.checkpoints`).

    The same recipe, rows and seed give the same weights on one machine, stopped in between or not;
    to the last bit under `full_determinism`.

    Raises:
        UsageError: the recipe does not fit the base (a target module it does not have), or asks
            to be stopped early with nothing held out.
        Rejected: the loss or its gradient went wrong (see `train.guards`), or the base cannot
            train on packed rows.
        KeyboardInterrupt, SystemExit: a signal came, and a checkpoint was written.
    """
    use_small_tiles()
    if recipe.full_determinism and not torch.cuda.is_available():
        torch.set_num_threads(1)  # of two, one process in about twenty differed in the last bits
    set_seed(recipe.seed)
    # 1) The base, frozen: in NF4 with double quantisation, or as it is.
    dtype = compute_dtype(base)
    model = load_base(base, recipe, dtype)

    # 2) What learns: an adapter, or the base itself. It answers as the base does yet.
    model = attach(model, recipe)
    began = beginning(model, recipe)
    before = token_scores(model, retained, recipe.per_device_train_batch_size) if retained else None

    # 3) The rows, several in a sequence where they are packed.
    members: Sequence[list[int]] | None = None
    if recipe.packing:
        packing.prove(model, rows)
        rows, members = packing.pack(rows, recipe.max_length)

    # 4) The run: its rows in an order of the seed's own, watched, and stopped where it goes wrong.
    arguments = _arguments(recipe, dtype, checkpoints or out, held_out)
    trainer = method(recipe.method)(Setup(recipe, model, tokenizer, rows, held_out, arguments))
    keep_in_float32(model)
    set_rates(trainer, recipe)
    step_rows = fix_order(trainer, recipe.seed)
    trainer.remove_callback(PrinterCallback)
    if places:
        places = [places[row] for row in sources(trainer.train_dataset, len(places))]
    trainer.add_callback(Guards(recipe, lambda step: _named(step_rows.of(step), members, places)))
    if recipe.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(recipe.early_stopping_patience))
    for callback in callbacks:
        trainer.add_callback(callback)

    # 5) From the last checkpoint on, where there is one.
    kept = Checkpoints(checkpoints, recipe.save_steps) if checkpoints else None
    latest = kept.latest() if kept else None
    if kept:
        if (recipe.num_iterations or 1) > 1:
            trainer.add_callback(drawn := Answers(trainer))
            if latest:
                drawn.restore(latest)
        trainer.add_callback(kept)
    with kept or nullcontext():
        trained = trainer.train(resume_from_checkpoint=str(latest) if latest else None)

    # 6) What comes out, in the form that is served; and that form's measure.
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    metrics = {"train_loss": fmean(losses), "steps": float(trained.global_step)}
    runtime_s = kept.runtime_s if kept else trained.metrics["train_runtime"]
    metrics["train_runtime_s"] = round(runtime_s, 1)
    metrics |= write_outcome(trainer.model, began, recipe, base, out)
    if held_out is not None:
        metrics |= evaluate(trainer, tokenizer, held_out, recipe)
    if retained and before:
        after = token_scores(model, retained, recipe.per_device_train_batch_size)
        metrics |= {"replay_loss": after[0], "replay_token_accuracy": after[1]}
        metrics |= {"base_replay_loss": before[0], "base_replay_token_accuracy": before[1]}
        metrics["forgetting"] = after[0] - before[0]
    if trainer.is_world_process_zero():
        write_curve(trainer.state.log_history, out)
    return metrics


def _arguments(
    recipe: Recipe, dtype: torch.dtype, out: Path, held_out: Dataset | None
) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "per_device_eval_batch_size": even_batch(
            len(held_out or [0]), recipe.per_device_train_batch_size, recipe.num_processes
        ),
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": recipe.warmup_steps,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": recipe.optim,
        "gradient_checkpointing": checkpoints_gradients(recipe),
        "train_sampling_strategy": recipe.train_sampling_strategy or "random",
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "full_determinism": recipe.full_determinism,
        "ddp_find_unused_parameters": False,
        **_validation(recipe, held_out),
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": list(recipe.report_to) or "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def _validation(recipe: Recipe, held_out: Dataset | None) -> dict[str, Any]:
    """Say when held-out rows are looked at, and whether the best weights are kept.

    Checkpoints to go on from are `train.checkpoints`' to ask for; transformers asks for those that
    may become the best.
    """
    best = recipe.load_best_model_at_end or bool(recipe.early_stopping_patience)
    if best and held_out is None:
        raise UsageError(
            "Nothing is held out to tell which weights are the best.",
            fix="Hold rows out: --test-size 0.05, or --eval-dataset FILE.",
        )
    every = recipe.eval_steps or (_TENTH if best else None)
    if held_out is None or every is None:
        return {"save_strategy": "no", "save_total_limit": _KEPT}
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps" if best else "no",
        "save_steps": every,
        "save_total_limit": _KEPT,
        "load_best_model_at_end": best,
        "metric_for_best_model": BEST.get(recipe.method, "eval_loss"),
        "greater_is_better": recipe.method in BEST,
    }


_TENTH = 0.1
"""Validations are ten where the best weights are wanted and `eval_steps` says nothing."""
_KEPT = 3
"""Checkpoints kept: the one being written, the last whole one, and the best."""


def _named(
    rows: Sequence[int], members: Sequence[list[int]] | None, places: Sequence[str]
) -> list[str]:
    """Return the places of rows; `members`: the rows of each sequence, where they are packed."""
    if members is not None:
        rows = list(dict.fromkeys(row for sequence in rows for row in members[sequence]))
    return [places[row] for row in rows if row < len(places)]
