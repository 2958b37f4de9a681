"""`adapters sweep` and `adapters lr-find`: which recipe to train with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.cli.train import (
    BaseRevisionOption,
    DatasetArgument,
    DatasetRevisionOption,
    EvalDatasetOption,
    NotesOption,
    ReplayOption,
    TagOption,
    recipe_flags,
)
from adapters.registry import Registry
from adapters.render import emit_json, table


@recipe_flags()
def sweep(
    *,
    config: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML, with ranges in it.")],
    dataset: DatasetArgument,
    base: Annotated[str, typer.Option(help="tiny, a folder, or a Hub id.")],
    name: Annotated[str, typer.Option(help="The adapter whose next version the best becomes.")],
    trials: Annotated[int, typer.Option(min=1, help="In all, with those that ended before.")] = 8,
    metric: Annotated[
        str | None, typer.Option(help="One of a version's metrics.  [default: eval_loss]")
    ] = None,
    direction: Annotated[
        Literal["minimize", "maximize"] | None,
        typer.Option(help="[default: minimize losses and perplexity, maximize others]"),
    ] = None,
    revision: BaseRevisionOption = None,
    eval_dataset: EvalDatasetOption = None,
    dataset_revision: DatasetRevisionOption = None,
    replay: ReplayOption = None,
    flags: Any,
    tag: TagOption = None,
    notes: NotesOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Search a recipe's ranges, and publish the best trial's adapter as the next version.

    A range is {low: 1e-5, high: 1e-3, log: true}, {low: 8, high: 64, step: 8} or
    {choices: [8, 16]}, as Optuna has them; flags win over the file. TPE chooses, the median pruner
    ends what is not promising. A sweep that was stopped goes on when the same command is given
    again, and with more --trials.

    Example: adapters sweep recipe.yaml support.jsonl --base tiny --name support --trials 8
    """
    from train.plan import Job
    from train.recipe import Recipe
    from train.space import read_space
    from train.sweep import Sweep
    from train.sweep import sweep as search

    job = Job(
        dataset=dataset,
        base=base,
        name=name,
        recipe=Recipe(),
        revision=revision,
        eval_dataset=eval_dataset,
        dataset_revision=dataset_revision,
        replay=replay,
        tags=tag or (),
        notes=notes,
    )
    order = Sweep(job, read_space(config, flags), trials, metric, direction)
    outcome = search(order, Registry.open(registry))
    if json:
        return emit_json(outcome.as_json())
    _show_trials(outcome)


def _show_trials(outcome: Any) -> None:
    from train.trials import short

    params = list(outcome.trials[0].params)
    typer.echo(
        table(
            ["trial", "state", outcome.metric, *params, "seconds", ""],
            [
                [
                    trial.number,
                    trial.state,
                    None if trial.value is None else f"{trial.value:.4f}",
                    *(short(trial.params.get(name)) for name in params),
                    f"{trial.seconds:.1f}",
                    "best" if trial.number == outcome.best else trial.reason,
                ]
                for trial in outcome.trials
            ],
        )
    )
    typer.echo(f"\n{outcome.version.engine_name}\n{outcome.version.path}")
    typer.echo(outcome.folder / "trials.svg")
