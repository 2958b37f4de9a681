"""`adapters extract`: a full fine-tune becomes an adapter, and it is measured what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.cli.train import BaseRevisionOption
from adapters.registry import Registry
from adapters.render import emit_json, table

if TYPE_CHECKING:
    from train.extract import Extracted

_SHOWN = 5


def extract(
    base: Annotated[str, typer.Option(help="The base that it was tuned from.")],
    tuned: Annotated[str, typer.Option(help="The tuned model: a folder, or a Hub id.")],
    name: Annotated[str, typer.Option(help="The adapter whose next version this becomes.")],
    r: Annotated[int, typer.Option("--r", min=1, max=512, help="Rank.")] = 64,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out a change that LoRA does not carry, however large: a pattern of "
            "tensors, '*norm.weight'. May be repeated.  [default: up to 1%]"
        ),
    ] = None,
    revision: BaseRevisionOption = None,
    tuned_revision: Annotated[
        str | None, typer.Option(help="Commit or tag of a tuned model on the Hub.")
    ] = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Turn a full fine-tune into an adapter: of each projection, the change cut to a rank.

    Example: adapters extract --base tiny --tuned ./support-model --r 64 --name support
    """
    from train.extract import Extraction
    from train.extract import extract as extract_from

    asked = Extraction(base, tuned, name, r, tuple(ignore or ()), revision, tuned_revision)
    made = extract_from(asked, Registry.open(registry))
    if json:
        emit_json(made.as_json())
    else:
        typer.echo(_text(made))


def _text(made: Extracted) -> str:
    metrics = made.version.manifest.metrics
    worst = sorted(made.carried, key=lambda each: -each.error)[:_SHOWN]
    rows = [(each.tensor, f"{each.change:.2%}", f"{each.error:.2g}") for each in worst]
    left = sorted(made.left_out, key=lambda each: -each.change)[:_SHOWN]
    rows += [(each.tensor, f"{each.change:.2%}", "left out") for each in left]
    more = len(made.carried) + len(made.left_out) - len(rows)
    return (
        f"{made.version.engine_name}\n"
        f"relative error of the whole: {metrics['extraction_error']:.2g}\n\n"
        f"{table(['worst', 'changed by', 'relative error'], rows)}"
        + (f"\nand {more} more; --json lists them all" if more else "")
    )
