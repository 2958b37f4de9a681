"""`adapters logs`: what a server of this machine wrote down."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def logs(
    name: Annotated[
        str | None, typer.Argument(help="Only requests that this adapter answered.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last.")] = 50,
    port: Annotated[int, typer.Option(help="The server's.")] = 8000,
) -> None:
    """Show what the server on this machine logged, all of it or one adapter's requests.

    The file under $ADAPTERS_HOME/logs holds a JSON document a line, with more than is shown.

    Example: adapters logs support -f
    """
    from adapters import log_files

    for line in log_files.last(port, lines, name):
        _show(line)
    if follow:
        for line in log_files.follow(port, name):
            _show(line)


def _show(line: dict[str, Any]) -> None:
    typer.echo(f"{line.get('time')} {line.get('level')} {line.get('message')}")
    if exception := line.get("exception"):
        typer.echo(exception)
