"""`adapters train`: flags and a recipe file in, one call, the version out."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.registry import Registry
from adapters.render import emit_json


def train(
    dataset: Annotated[Path, typer.Argument(help="JSONL, JSON or CSV file.")],
    base: Annotated[str, typer.Option(help="tiny, a folder, or a Hub id.")],
    name: Annotated[str, typer.Option(help="The adapter whose next version this becomes.")],
    config: Annotated[Path | None, typer.Option(help="Recipe in YAML; flags win.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a Hub base.")] = None,
    method: Annotated[Literal["qlora", "lora"] | None, typer.Option()] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column of the prompts.")] = None,
    completion_column: Annotated[str | None, typer.Option(help="Column of the answers.")] = None,
    test_size: Annotated[float | None, typer.Option(help="Share of rows held out.")] = None,
    r: Annotated[int | None, typer.Option("--r", help="Rank.")] = None,
    lora_alpha: Annotated[float | None, typer.Option()] = None,
    lora_dropout: Annotated[float | None, typer.Option()] = None,
    target_modules: Annotated[
        str | None, typer.Option(help="all-linear, or names: q_proj,v_proj.")
    ] = None,
    use_rslora: Annotated[bool | None, typer.Option()] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens; longer rows are cut.")] = None,
    num_train_epochs: Annotated[float | None, typer.Option()] = None,
    max_steps: Annotated[int | None, typer.Option(help="Overrides the epochs.")] = None,
    per_device_train_batch_size: Annotated[int | None, typer.Option()] = None,
    gradient_accumulation_steps: Annotated[int | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    lr_scheduler_type: Annotated[str | None, typer.Option()] = None,
    warmup_steps: Annotated[float | None, typer.Option(help="Below 1: share of all.")] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    max_grad_norm: Annotated[float | None, typer.Option()] = None,
    optim: Annotated[str | None, typer.Option()] = None,
    gradient_checkpointing: Annotated[bool | None, typer.Option()] = None,
    train_sampling_strategy: Annotated[str | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Train a LoRA adapter and publish it as the next version.

    The flags from --method on are the recipe: PEFT's, TRL's and transformers' own names.

    Example: adapters train support.jsonl --base tiny --name support --r 32 --num-train-epochs 3
    """
    flags = dict(locals())
    # Stopped by a supervisor, it cleans up as after Ctrl-C. 143 is what a shell would say.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from train.recipe import KEYS, read_recipe
    from train.run import Job, run

    recipe = read_recipe(config, {key: flags[key] for key in KEYS if flags[key] is not None})
    version = run(Job(dataset, base, name, recipe, revision), Registry.open(registry))
    if json:
        emit_json(version.manifest.as_json() | _where(version))
    else:
        typer.echo(f"{version.engine_name}\n{version.path}")


def _where(version: Any) -> dict[str, str]:
    return {"engine_name": version.engine_name, "path": str(version.path)}
