"""`adapters push | pull`: versions between registries."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.registry import Registry
from adapters.render import emit_json

if TYPE_CHECKING:
    from adapters.transfer import Transfer

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")]


def push(
    ref: Annotated[str, typer.Argument(help="The version, e.g. support@v3.")],
    target: Annotated[str, typer.Argument(help="hf://your-org, or a registry's folder.")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="How a new repo on the Hub is made.")
    ] = True,
    dry_run: DryRunOption = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Send a version to another registry; nothing is done where it is there already.

    It keeps its number unless that is taken or passed there. Aliases are not sent.

    Example: adapters push support@v3 hf://your-org
    """
    from adapters.transfer import open_target, transfer

    there = open_target(target, private=private)
    typer.echo(f"Sending {ref} to {there.location} …", err=True)
    _show(transfer(Registry.open(registry), ref, there, dry_run=dry_run), json)


def pull(
    source: Annotated[str, typer.Argument(help="hf://your-org/NAME@v3, or FOLDER/NAME@v3.")],
    dry_run: DryRunOption = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch a version from another registry; nothing is done where it is here already.

    It keeps its number unless that is taken or passed here. Aliases are not fetched.

    Example: adapters pull hf://your-org/support@production
    """
    from adapters.transfer import open_source, transfer

    there, ref = open_source(source)
    typer.echo(f"Fetching {ref} from {there.location} …", err=True)
    _show(transfer(there, ref, Registry.open(registry), dry_run=dry_run), json)


def _show(done: Transfer, json: bool) -> None:
    if json:
        emit_json(asdict(done))
        return
    number = f" (its number was {done.source.partition('+')[0]} there)" if done.renumbered else ""
    size = f"{done.files} files, {done.size_bytes / 1e6:.1f} MB"
    typer.echo(f"{done.target} in {done.location}: {done.state}, {size}{number}")
