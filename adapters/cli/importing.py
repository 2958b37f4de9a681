"""`adapters import`: an adapter made elsewhere becomes a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.registry import Registry
from adapters.render import emit_json


def import_(
    source: Annotated[str, typer.Argument(help="A PEFT folder or checkpoint, or a Hub id.")],
    name: Annotated[str, typer.Option(help="The adapter whose next version this becomes.")],
    base: Annotated[
        str | None, typer.Option(help="The base.  [default: what adapter_config.json names]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit or tag, of a Hub id.")] = None,
    serving: Annotated[
        Path | None, typer.Option(help="The server's defaults, as JSON (see docs/serving.md).")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    notes: Annotated[str, typer.Option(help="Free text, kept with the version.")] = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Publish a LoRA adapter that was made elsewhere, after the checks every version passes.

    Takes folders and checkpoints of PEFT, TRL, LLaMA-Factory, Axolotl or Unsloth.

    Example: adapters import ./checkpoint-500 --name support --base Qwen/Qwen3-0.6B
    """
    from adapters.importing import import_adapter
    from adapters.serving import Serving

    done = import_adapter(
        Registry.open(registry),
        source,
        name,
        base=base,
        revision=revision,
        serving=Serving.read(serving) if serving else None,
        tags=tag or (),
        notes=notes,
    )
    for warning in done.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    if json:
        emit_json(
            {
                "engine_name": done.version.engine_name,
                "path": str(done.version.path),
                "left_out": done.left_out,
                "warnings": done.warnings,
            }
        )
    else:
        typer.echo(f"{done.version.engine_name}\n{done.version.path}")
