"""`adapters ps`: what a running server has, over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters.cli.registry import JsonOption
from adapters.render import emit_json, table
from adapters.running import listing

UrlOption = Annotated[str, typer.Option(help="Where the server listens.")]
KeyOption = Annotated[
    str | None, typer.Option(envvar=["ADAPTERS_API_KEY", "VLLM_API_KEY"], help="The server's key.")
]
_ASIDE = ("known", "refused")


def ps(
    all_: Annotated[bool, typer.Option("--all", help="What is not loaded, too.")] = False,
    url: UrlOption = "http://127.0.0.1:8000",
    api_key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Show which versions a running server has loaded, and how they stand.

    Example: adapters ps --url http://127.0.0.1:8000
    """
    rows = listing(url, api_key)
    if json:
        emit_json(rows)
        return
    shown = [row for row in rows if all_ or row.get("state") not in _ASIDE]
    cells = [
        (
            row.get("id"),
            row.get("state", "") + (", pinned" if row.get("pinned") else ""),
            ", ".join(row.get("aliases") or ()),
            row.get("running"),
            row.get("loads"),
            row.get("last_used"),
            row.get("reason"),
        )
        for row in shown
    ]
    heads = ("version", "state", "aliases", "running", "loads", "last used", "reason")
    typer.echo(table(heads, cells))
    if len(shown) < len(rows):
        typer.echo(f"{len(rows) - len(shown)} more are not loaded (--all).")
