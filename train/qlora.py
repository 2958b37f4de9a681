"""QLoRA: a base in NF4, low-rank factors on top, TRL's SFTTrainer. Read it from top to bottom.

Sources: QLoRA (arXiv 2305.14314), LoRA (arXiv 2106.09685). Does not read datasets
(`train/rows.py`), tokenise (`train/tokens.py`) or publish (`train/run.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from adapters.errors import UsageError
from train.recipe import ALL_LINEAR, Recipe
from train.tokens import Example

Progress = Callable[[int, int, float], None]
"""Called after each step with its number, the number of all steps, and the training loss."""


def train(
    recipe: Recipe,
    base: Path,
    tokenizer: Any,
    examples: list[Example],
    held_out: list[Example],
    *,
    out: Path,
    progress: Progress = lambda step, steps, loss: None,
) -> dict[str, float]:
    """Train one adapter and write it into `out` as PEFT does; return its metrics.

    The same recipe, rows and seed give the same weights on one machine.

    Raises:
        UsageError: the recipe does not fit the base (a target module it does not have, or one of
            its experts).
    """
    set_seed(recipe.seed)
    # 1) The base, frozen: in NF4 with double quantisation, or as it is.
    dtype = compute_dtype(base)
    model = load_base(base, recipe, dtype)

    # 2) The adapter: W + lora_alpha / r · B A, with A (r, in) and B (out, r) the only weights
    #    that learn.
    model = _adapted(model, recipe)

    # 3) The run.
    trainer = SFTTrainer(
        model=model,
        args=_arguments(recipe, dtype, out),
        train_dataset=Dataset.from_list(examples),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
    )
    for parameter in model.parameters():
        if parameter.requires_grad:  # TRL casts them to bf16, whose steps are too coarse here
            parameter.data = parameter.data.to(torch.float32)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Report(progress))
    trained = trainer.train()

    # 4) What it learned, and the adapter itself.
    metrics = {"train_loss": trained.training_loss, "steps": float(trained.global_step)}
    metrics["train_runtime_s"] = round(trained.metrics["train_runtime"], 1)
    if held_out:
        metrics["eval_loss"] = trainer.evaluate()["eval_loss"]
    trainer.model.save_pretrained(out, safe_serialization=True)
    return metrics


def compute_dtype(base: Path) -> torch.dtype:
    """Return what to compute in: the base's own type where this machine computes it natively."""
    own = AutoConfig.from_pretrained(base).dtype or torch.float32
    if own == torch.float32 or torch.cuda.is_available():
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return own if own != torch.bfloat16 or bf16 else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def load_base(base: Path, recipe: Recipe, dtype: torch.dtype) -> PreTrainedModel:
    """Load the frozen base; under `qlora` its linear layers are 4-bit (but for the head)."""
    quantised = recipe.method == "qlora"
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=dtype,
        device_map={"": torch.cuda.current_device()} if torch.cuda.is_available() else None,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        if quantised
        else None,
    )
    if quantised:  # freezes, and keeps norms and head in fp32
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=_checkpointing(recipe)
        )
        for module in model.modules():
            # On CPUs with AVX512-BF16 bitsandbytes would evaluate in bf16, whatever was asked for.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = dtype == torch.bfloat16
    return model


def _adapted(model: PreTrainedModel, recipe: Recipe) -> PeftModel:
    """Put the factors on; refused is what PEFT would train and vLLM not serve."""
    fix = f"--target-modules {ALL_LINEAR} takes what can be trained and served."
    try:
        adapted = get_peft_model(model, _lora(recipe, model))
    except ValueError as error:
        raise UsageError(f"PEFT does not take these target modules: {error}", fix=fix) from error
    if adapted.peft_config["default"].target_parameters:
        raise UsageError("vLLM does not serve experts that PEFT trains as one.", fix=fix)
    return adapted


def _lora(recipe: Recipe, model: PreTrainedModel) -> LoraConfig:
    targets = recipe.target_modules
    linear = [name for name, module in model.named_modules() if hasattr(module, "in_features")]
    if not isinstance(targets, str):
        named = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        if unknown := sorted(set(targets) - named):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise UsageError(
                f"This base has no module {', '.join(unknown)}.",
                fix=f"--target-modules takes {ALL_LINEAR} or names out of {', '.join(known)}.",
            )
    elif any(name.endswith(".experts") for name, _ in model.named_modules()):
        # Of a mixture PEFT would take the experts too, in a layout that vLLM does not serve.
        targets = tuple({name.rpartition(".")[2] for name in linear if "attn" in name})
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=targets if isinstance(targets, str) else sorted(targets),
        use_rslora=recipe.use_rslora,
    )


def _arguments(recipe: Recipe, dtype: torch.dtype, out: Path) -> SFTConfig:
    return SFTConfig(
        output_dir=str(out),
        max_length=None,  # cut and counted already
        num_train_epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.per_device_train_batch_size,
        per_device_eval_batch_size=recipe.per_device_train_batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim=recipe.optim,
        gradient_checkpointing=_checkpointing(recipe),
        train_sampling_strategy=recipe.train_sampling_strategy,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _checkpointing(recipe: Recipe) -> bool:
    chosen = recipe.gradient_checkpointing
    return torch.cuda.is_available() if chosen is None else chosen


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self._progress(state.global_step, state.max_steps, float(logs["loss"]))
