"""What learns: the base as it is loaded, and the low-rank factors on top of it.

qlora, lora    B A on the base in NF4, or as it is; rsLoRA and LoRA+ by keys of their own
qdora, dora    B A and the length of each row of W + B A
pissa, olora   B A that begin as a part of W, which is taken out of the base
full           the base itself, or some of its modules

Sources: QLoRA (arXiv 2305.14314), LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732), LoRA+ (arXiv
2402.12354), DoRA (arXiv 2402.09353), PiSSA (arXiv 2404.02948), OLoRA (arXiv 2406.01775).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.optimizers import create_loraplus_optimizer
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as _CLASSIFIERS,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    Trainer,
)

from adapters.errors import UsageError
from train.full import write_weights
from train.plain import Factors, make_plain
from train.recipe import ALL, ALL_LINEAR, CONVERTED, Recipe

_INITIALISATIONS = {"pissa": "pissa_niter_16", "olora": "olora"}
"""PEFT's names; PiSSA's SVD is its fast one, of 16 iterations, as in its paper."""
REWARD_HEAD = "score"
"""The head of transformers' decoder-only sequence classifiers; vLLM knows it by this name."""


def compute_dtype(base: Path) -> torch.dtype:
    """Return what to compute in: the base's own type where this machine computes it natively."""
    own = AutoConfig.from_pretrained(base).dtype or torch.float32
    if own == torch.float32 or torch.cuda.is_available():
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return own if own != torch.bfloat16 or bf16 else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def load_base(base: Path, recipe: Recipe, dtype: torch.dtype) -> PreTrainedModel:
    """Load the base; under `qlora` and `qdora` its linear layers are 4-bit (but for the head).

    For a reward model it has one output, by a head that no base has: it is drawn by the seed.

    Raises:
        UsageError: transformers has no sequence classifier of this base.
    """
    model = _class(base, recipe).from_pretrained(
        base,
        dtype=dtype,
        **({"num_labels": 1} if recipe.method == "reward" else {}),
        device_map={"": torch.cuda.current_device()} if torch.cuda.is_available() else None,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=[REWARD_HEAD] if recipe.method == "reward" else None,
        )
        if recipe.quantised
        else None,
    )
    if recipe.quantised:  # freezes, and keeps norms and head in fp32
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=checkpoints_gradients(recipe)
        )
        for module in model.modules():
            # On CPUs with AVX512-BF16 bitsandbytes would evaluate in bf16, whatever was asked for.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = dtype == torch.bfloat16
    return model


def _class(base: Path, recipe: Recipe) -> Any:
    if recipe.method != "reward":
        return AutoModelForCausalLM
    if type(config := AutoConfig.from_pretrained(base)) not in _CLASSIFIERS:
        raise UsageError(
            f"transformers has no sequence classifier of a {config.model_type} base.",
            fix="Train reward models on a Llama, Qwen or Mistral base.",
        )
    return AutoModelForSequenceClassification


def attach(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel | PeftModel:
    """Let learn what the recipe says; all else is frozen.

    That is the adapter, W + scale · B A with A (r, in) and B (out, r); under `full` the base's own
    weights. It answers as the base does.

    Raises:
        UsageError: the base has no such target module, or it is one that vLLM does not serve, or
            too small for the rank.
    """
    if recipe.tuner == "full":
        return _unfrozen(model, recipe)
    fix = f"--target-modules {ALL_LINEAR} takes what can be trained and served."
    config = LoraConfig(
        # With a classifier PEFT saves its head too, as `modules_to_save`.
        task_type="SEQ_CLS" if recipe.method == "reward" else "CAUSAL_LM",
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=_targets(model, recipe),
        use_rslora=recipe.use_rslora,
        use_dora=recipe.tuner in ("dora", "qdora"),
    )
    if recipe.tuner in _INITIALISATIONS:
        _check_rank(model, config)
        config.init_lora_weights = _INITIALISATIONS[recipe.tuner]
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(f"PEFT does not take these target modules: {error}", fix=fix) from error
    if adapted.peft_config["default"].target_parameters:
        raise UsageError("vLLM does not serve experts that PEFT trains as one.", fix=fix)
    # TRL copies the adapter for a reference: that must not begin by changing the base once more.
    adapted.peft_config["default"].init_lora_weights = True
    return adapted


def _unfrozen(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    if recipe.target_modules != ALL:
        names, head = _targets(model, recipe), model.get_output_embeddings()
        model.requires_grad_(False)
        for name, module in model.named_modules():
            linear = hasattr(module, "in_features") and module is not head
            if linear if names == ALL_LINEAR else name.rpartition(".")[2] in names:
                module.requires_grad_(True)
    return model


def _check_rank(model: PreTrainedModel, config: LoraConfig) -> None:
    """Check that every target module has so many directions to begin with."""
    targets = config.target_modules
    for name, module in model.named_modules():
        if not hasattr(module, "in_features") or module is model.get_output_embeddings():
            continue
        if targets == ALL_LINEAR or name.rpartition(".")[2] in targets:
            most = min(module.in_features, module.out_features)
            if config.r > most:
                raise UsageError(
                    f"{name} has {most} directions to begin with, not {config.r}.",
                    fix=f"Use --r {most} or less, or --tuner lora.",
                )


def _targets(model: PreTrainedModel, recipe: Recipe) -> str | list[str]:
    """Return what PEFT takes; of a mixture it would take the experts too, which is not served."""
    names = [name for name, _ in model.named_modules()]
    linear = [name for name, module in model.named_modules() if hasattr(module, "in_features")]
    if isinstance(recipe.target_modules, str):
        mixture = any(name.endswith(".experts") for name in names)
        attention = {name.rpartition(".")[2] for name in linear if "attn" in name}
        return sorted(attention) if mixture else recipe.target_modules
    named = {name.rpartition(".")[2] for name in names}
    if unknown := sorted(set(recipe.target_modules) - named):
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise UsageError(
            f"This base has no module {', '.join(unknown)}.",
            fix=f"--target-modules takes {ALL_LINEAR} or names out of {', '.join(known)}.",
        )
    return sorted(recipe.target_modules)


def set_rates(trainer: Trainer, recipe: Recipe) -> None:
    """Give the trainer LoRA+'s optimizer where the recipe asks for it: two rates instead of one."""
    if recipe.loraplus_lr_ratio is not None:
        make, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        trainer.optimizer = create_loraplus_optimizer(
            trainer.model,
            make,
            loraplus_lr_ratio=recipe.loraplus_lr_ratio,
            loraplus_weight_decay=recipe.weight_decay,
            **options,
        )


def write_outcome(
    model: PreTrainedModel | PeftModel,
    began: Mapping[str, Factors],
    recipe: Recipe,
    base: Path,
    out: Path,
) -> dict[str, float]:
    """Write what was trained so that it can be served, and have the model answer as that does.

    `began`: see `train.plain.beginning`. Of several processes the first one writes there. Returns
    the metrics of the conversion, if there was one.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        with tempfile.TemporaryDirectory(prefix="adapters-train-") as elsewhere:
            return _write(model, began, recipe, base, Path(elsewhere))
    return _write(model, began, recipe, base, out)


def _write(
    model: PreTrainedModel | PeftModel,
    began: Mapping[str, Factors],
    recipe: Recipe,
    base: Path,
    out: Path,
) -> dict[str, float]:
    if recipe.tuner == "full":
        write_weights(model, base, out)
    elif recipe.tuner in CONVERTED:
        return make_plain(model, began, recipe, out)
    else:
        model.save_pretrained(out, safe_serialization=True)
    return {}


def keep_in_float32(model: torch.nn.Module) -> None:
    """Have what learns in float32: TRL casts it to bf16 under QLoRA, whose steps are too coarse."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def checkpoints_gradients(recipe: Recipe) -> bool:
    """Say whether activations are computed again rather than kept: by default on a GPU only."""
    chosen = recipe.gradient_checkpointing
    return torch.cuda.is_available() if chosen is None else chosen
