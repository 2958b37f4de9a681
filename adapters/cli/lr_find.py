"""`adapters lr-find`: which learning rate to train with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.registry import JsonOption
from adapters.cli.train import (
    BaseRevisionOption,
    DatasetArgument,
    DatasetRevisionOption,
    recipe_flags,
)
from adapters.render import emit_json, table

_LINES = 16


@recipe_flags()
def lr_find(
    *,
    dataset: DatasetArgument,
    base: Annotated[str, typer.Option(help="tiny, a folder, or a Hub id.")],
    low: Annotated[float, typer.Option(help="The first step's rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="The last step's rate.")] = 1e-1,
    num_steps: Annotated[int, typer.Option(help="Steps between, evenly in log(rate).")] = 100,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the curve.  [default: $ADAPTERS_HOME/lr-find/<run>]"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe in YAML; flags win.")] = None,
    revision: BaseRevisionOption = None,
    dataset_revision: DatasetRevisionOption = None,
    flags: Any,
    json: JsonOption = False,
) -> None:
    """Let the learning rate climb through one short run, and suggest one. Publishes nothing.

    Suggested is the rate at which the smoothed loss falls most steeply, but at most a tenth of the
    one at which it diverges: where it has risen above its lowest by half of what it was at first.

    Example: adapters lr-find support.jsonl --base tiny --num-steps 100
    """
    from train import lr_find as range_test
    from train.plan import Job
    from train.recipe import read_recipe

    recipe = read_recipe(config, flags)
    full = recipe.tuner == "full"
    job = Job(
        dataset=dataset,
        base=base,
        name=None if full else "lr-find",
        output_dir=Path("lr-find") if full else None,  # where nothing is written
        recipe=recipe,
        revision=revision,
        dataset_revision=dataset_revision,
    )
    found = range_test.lr_find(job, low=low, high=high, num_steps=num_steps, out=out)
    if json:
        return emit_json(found.as_json())
    shown = found.points[:: max(1, len(found.points) // _LINES)]
    lines = [[f"{p.learning_rate:.2e}", f"{p.loss:.3f}", f"{p.smoothed_loss:.3f}"] for p in shown]
    typer.echo(table(["learning rate", "loss", "smoothed"], lines))
    if found.diverged_at is not None:
        typer.echo(f"\ndiverges at {found.diverged_at:.2g}")
    if found.suggestion is None:
        typer.echo("\nThe loss does not fall: no rate is suggested. Try a higher --high.")
    else:
        typer.echo(f"\n--learning-rate {found.suggestion:.2g}")
    typer.echo(found.folder / "lr-find.svg")
