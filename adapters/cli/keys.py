"""`adapters keys create | list | revoke`: who may ask this machine's servers for what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, cast

import typer

from adapters.cli.registry import JsonOption
from adapters.keys import Key, KeyJournal, Role
from adapters.render import emit_json, table

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Who may ask this machine's servers for which adapters, and how much.",
)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What to call it, e.g. web.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Adapters (and the base) it reaches, e.g. 'support*'; may be repeated."),
    ] = None,
    role: Annotated[
        str, typer.Option(help="infer: answers; feedback: results posted back; admin: everything.")
    ] = "infer",
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute, read and written.")] = None,
    expires: Annotated[str | None, typer.Option(help="After how long, e.g. 12h or 90d.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a key. Its secret is printed now and never again; running servers take it at once.

    As soon as there is one key, servers ask every request for one.

    Example: adapters keys create --name web --allow 'support*' --rpm 600 --tpm 100000 --expires 90d
    """
    key, secret = KeyJournal().create(
        name, allow=allow or (), role=cast(Role, role), rpm=rpm, tpm=tpm, expires=expires
    )
    if json:
        emit_json({"key": secret, **_row(key)})
    else:
        typer.echo(secret)
        typer.echo(f"{key.name} ({key.id}). Keep the key: it is not shown again.", err=True)


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List the keys there are, and were, without their secrets.

    Example: adapters keys list
    """
    keys = KeyJournal().read()
    if json:
        emit_json([_row(key) for key in keys])
    elif keys:
        headers = ["name", "id", "key", "role", "allow", "rpm", "tpm", "expires", "state"]
        typer.echo(table(headers, map(_cells, keys)))
    else:
        typer.echo("No keys. Make one: adapters keys create --help")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")], json: JsonOption = False
) -> None:
    """Have a key open nothing any more; running servers follow within two seconds.

    Example: adapters keys revoke web
    """
    key = KeyJournal().revoke(name)
    if json:
        emit_json(_row(key))
    else:
        typer.echo(f"{key.name} ({key.id}) is revoked.")


def _row(key: Key) -> dict[str, Any]:
    fields = asdict(key)
    fields.pop("sha256")  # of use to nobody but the server
    return {**fields, "state": key.state()}


def _cells(key: Key) -> list[object]:
    allow = " ".join(key.allow) or "everything"
    expires = key.expires_at[:10] if key.expires_at else None
    shown = f"…{key.ending}"
    return [key.name, key.id, shown, key.role, allow, key.rpm, key.tpm, expires, key.state()]
