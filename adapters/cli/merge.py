"""`adapters merge`: several versions of one base as one."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.errors import UsageError
from adapters.registry import Registry
from adapters.render import emit_json


def merge(
    refs: Annotated[list[str], typer.Argument(help="Two or more versions of one base.")],
    name: Annotated[str, typer.Option(help="The adapter whose next version this becomes.")],
    weights: Annotated[
        str | None, typer.Option(help="One a version, e.g. 0.7,0.3.  [default: 1 each]")
    ] = None,
    method: Annotated[
        str, typer.Option(help="cat and svd add ΔW exactly; linear, ties and dare_ties as PEFT.")
    ] = "cat",
    r: Annotated[int | None, typer.Option("--r", help="Rank to cut to, with svd.")] = None,
    density: Annotated[float, typer.Option(help="Share kept by ties and dare_ties.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of dare_ties.")] = 0,
    base: Annotated[
        str | None, typer.Option(help="Where the base lies.  [default: as the versions say]")
    ] = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Merge versions into a new one, and measure it against their weighted sum.

    Example: adapters merge support@v3 tone@v2 --weights 0.7,0.3 --name support-tone
    """
    from train import merge as merging

    given = _numbers(weights) if weights else (1.0,) * len(refs)
    asked = merging.Merge(tuple(refs), given, name, method, r, density, seed)
    version = merging.merge(asked, Registry.open(registry), base=base)
    error = version.manifest.metrics["merge_error"]
    if json:
        emit_json({"engine_name": version.engine_name, "merge_error": error})
    else:
        typer.echo(f"{version.engine_name}\nlargest relative error of a module: {error:.2g}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"{text!r} are no weights.", fix="Write e.g. --weights 0.7,0.3.") from None
