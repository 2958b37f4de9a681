"""`adapters train`: flags and a recipe file in, one call, the version out."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adapters.cli.registry import JsonOption, RegistryOption, version_json
from adapters.registry import Registry
from adapters.render import emit_json


def _option(key: str, help_: str) -> Any:
    """Return the flag of a recipe key; left out it is None, so that a recipe file can decide."""
    from train.recipe import Recipe

    default = {"gradient_checkpointing": "on a GPU", "max_steps": None}.get(
        key, getattr(Recipe(), key)
    )
    return typer.Option(help=help_ if default is None else f"{help_}  [default: {default}]")


def train(
    dataset: Annotated[Path, typer.Argument(help="JSONL, JSON or CSV file.")],
    base: Annotated[str, typer.Option(help="tiny, a folder, or a Hub id.")],
    name: Annotated[str, typer.Option(help="The adapter whose next version this becomes.")],
    config: Annotated[Path | None, typer.Option(help="Recipe in YAML; flags win.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a Hub base.")] = None,
    method: Annotated[
        Literal["qlora", "lora"] | None, _option("method", "NF4 base, or the base as it is.")
    ] = None,
    prompt_column: Annotated[str | None, _option("prompt_column", "Column of the prompts.")] = None,
    completion_column: Annotated[
        str | None, _option("completion_column", "Column of the answers.")
    ] = None,
    test_size: Annotated[float | None, _option("test_size", "Share of rows held out.")] = None,
    r: Annotated[int | None, _option("r", "Rank.")] = None,
    lora_alpha: Annotated[float | None, _option("lora_alpha", "Scale: alpha / r.")] = None,
    lora_dropout: Annotated[
        float | None, _option("lora_dropout", "Share of inputs dropped.")
    ] = None,
    target_modules: Annotated[
        str | None, _option("target_modules", "all-linear, or names: q_proj,v_proj.")
    ] = None,
    use_rslora: Annotated[bool | None, _option("use_rslora", "Scale by alpha / √r.")] = None,
    max_length: Annotated[int | None, _option("max_length", "Tokens; longer rows are cut.")] = None,
    num_train_epochs: Annotated[
        float | None, _option("num_train_epochs", "Passes over the rows.")
    ] = None,
    max_steps: Annotated[int | None, _option("max_steps", "Overrides the epochs.")] = None,
    per_device_train_batch_size: Annotated[
        int | None, _option("per_device_train_batch_size", "Rows a step.")
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, _option("gradient_accumulation_steps", "Batches a step.")
    ] = None,
    learning_rate: Annotated[float | None, _option("learning_rate", "At its peak.")] = None,
    lr_scheduler_type: Annotated[
        str | None, _option("lr_scheduler_type", "transformers' name.")
    ] = None,
    warmup_steps: Annotated[float | None, _option("warmup_steps", "Below 1: share of all.")] = None,
    weight_decay: Annotated[float | None, _option("weight_decay", "AdamW's.")] = None,
    max_grad_norm: Annotated[float | None, _option("max_grad_norm", "Clips gradients.")] = None,
    optim: Annotated[str | None, _option("optim", "transformers' name.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, _option("gradient_checkpointing", "Less memory, more time.")
    ] = None,
    train_sampling_strategy: Annotated[
        str | None, _option("train_sampling_strategy", "transformers' name.")
    ] = None,
    seed: Annotated[int | None, _option("seed", "One seed, one adapter.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    notes: Annotated[str, typer.Option(help="Free text, kept with the version.")] = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Train a LoRA adapter and publish it as the next version.

    The flags from --method to --seed are the recipe: PEFT's, TRL's and transformers' own names.

    Example: adapters train support.jsonl --base tiny --name support --r 32 --num-train-epochs 3
    """
    flags = dict(locals())
    # Stopped by a supervisor, it cleans up as after Ctrl-C. 143 is what a shell would say.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from train.recipe import KEYS, read_recipe
    from train.run import Job, run

    recipe = read_recipe(config, {key: flags[key] for key in KEYS if flags[key] is not None})
    job = Job(dataset, base, name, recipe, revision, tag or (), notes)
    version = run(job, Registry.open(registry))
    if json:
        emit_json(version_json(version))
    else:
        typer.echo(f"{version.engine_name}\n{version.path}")
