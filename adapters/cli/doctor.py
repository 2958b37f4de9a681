"""`adapters doctor`: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.render import emit_json

_SIGNS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def doctor(
    base: Annotated[
        str | None, typer.Option(help="Plan slots for it; else for the commonest here.")
    ] = None,
    registry: RegistryOption = None,
    host: Annotated[str, typer.Option(help="Where a server would listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="And on which port.")] = 8000,
    json: JsonOption = False,
) -> None:
    """Check packages, machine and registry for what keeps adapters from being trained or served.

    Exit code 1: something would fail; a warning alone is 0.

    Example: adapters doctor --base tiny
    """
    from adapters.doctor import examine

    findings = list(examine(registry=registry, base=base, host=host, port=port))
    if json:
        emit_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{_SIGNS[finding.verdict]}  {finding.subject}: {finding.said}")
            if finding.fix:
                typer.echo(f"      {finding.fix}")
    raise typer.Exit(int(any(finding.verdict == "fail" for finding in findings)))
