"""`adapters data`: what a dataset holds, before anything is trained on it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from adapters.cli.registry import JsonOption
from adapters.cli.train import DatasetArgument, DatasetRevisionOption, recipe_flags
from adapters.render import emit_json, table

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find out what a dataset holds before training on it.",
)


@app.callback()
def _data() -> None:
    """Keep `check` a command of its own; a Typer of one command is that command."""


@app.command()
@recipe_flags(rows_only=True)
def check(
    *,
    dataset: DatasetArgument,
    base: Annotated[
        str | None, typer.Option(help="Count tokens as this base does: tiny, a folder, a Hub id.")
    ] = None,
    dataset_revision: DatasetRevisionOption = None,
    show_masks: Annotated[
        int, typer.Option(min=0, help="Show so many rows' tokens, the learnt ones in colour.")
    ] = 0,
    flags: Any,
    json: JsonOption = False,
) -> None:
    """Print the data receipt: where each row would go, and what to look at before training.

    Exits with 4 where more is lost than --max-cut, --max-malformed … allow.

    Example: adapters data check support.jsonl --base tiny --show-masks 2 --max-cut 0.02
    """
    from train.check import check_rows, lines
    from train.recipe import Recipe

    recipe = Recipe(**flags)
    receipt, masks = check_rows(
        dataset, recipe, base=base, revision=dataset_revision, show_masks=show_masks
    )
    if json:
        emit_json(receipt.details())
    else:
        typer.echo(table(["rows", "", "where"], lines(receipt)))
        for mask in masks:
            typer.echo(f"\n{mask}")
    receipt.check(**recipe.may_be_lost())
