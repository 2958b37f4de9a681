"""`adapters prompt new`: versions without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption, version_json
from adapters.registry import Registry
from adapters.render import emit_json

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Publish a system prompt or few-shot turns as a version.",
)


@app.callback()
def _group() -> None:
    """Keep `new` a command of a group."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The adapter whose next version this becomes.")],
    system_file: Annotated[Path | None, typer.Option(help="The system prompt, as text.")] = None,
    shots: Annotated[
        Path | None, typer.Option(help="Few-shot turns, JSONL: messages, or prompt and completion.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="The version below, e.g. support@v3.")] = None,
    base: Annotated[str | None, typer.Option(help="The base below: a Hub id or a folder.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a base on the Hub.")] = None,
    serving: Annotated[
        Path | None, typer.Option(help="More defaults, as JSON (see docs/serving.md).")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One of them: temperature=0.2; repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    notes: Annotated[str, typer.Option(help="Free text, kept with the version.")] = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Publish a version that has no weights, only what the server adds to requests.

    Example: adapters prompt new support --system-file tone.txt --on support@v3 --set top_p=0.9
    """
    from adapters.prompts import publish_prompt, read_settings, read_shots, read_text
    from adapters.serving import Serving

    content = {
        **(Serving.read(serving).as_json() if serving else {}),
        **({"system": read_text(system_file)} if system_file else {}),
        **({"shots": read_shots(shots)} if shots else {}),
        **read_settings(set_ or ()),
    }
    version = publish_prompt(
        Registry.open(registry),
        name,
        Serving.from_json(content, "The version"),
        on=on,
        base=base,
        revision=revision,
        tags=tag or (),
        notes=notes,
    )
    if json:
        emit_json(version_json(version))
    else:
        typer.echo(f"{version.engine_name}\n{version.path}")
