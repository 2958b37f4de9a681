"""`adapters ab start | stop | show`: experiments on live traffic."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from adapters.cli.registry import JsonOption, ReasonOption, RegistryOption
from adapters.errors import UsageError
from adapters.registry import Registry
from adapters.render import emit_json, table
from adapters.types import BASE_ARM, Arm, Phase, Ref

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Split live traffic between versions. Running servers follow within a second.",
)
NameArgument = Annotated[str, typer.Argument(help="The adapter.")]


@app.command()
def start(
    name: NameArgument,
    arm: Annotated[
        list[str], typer.Option(help="VERSION=SHARE, e.g. v1=50; `base` is the base. Repeat it.")
    ],
    experiment: Annotated[str | None, typer.Option(help="Its name.  [default: ab-N]")] = None,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Split requests for NAME; a user stays with one arm. Requests that pin a version bypass it.

    Example: adapters ab start support --arm v1=50 --arm v2=50
    """
    arms = [_arm(name, text) for text in arm]
    phase = Registry.open(registry).start_experiment(
        name, arms, experiment=experiment, reason=reason
    )
    _show(phase, json)


@app.command()
def stop(
    name: NameArgument,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """End the experiment: NAME means production again.

    Example: adapters ab stop support --reason "v2 is better"
    """
    _show(Registry.open(registry).stop_experiment(name, reason=reason), json)


@app.command()
def show(name: NameArgument, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Show the experiment that runs on NAME.

    Example: adapters ab show support
    """
    opened = Registry.open(registry)
    opened.versions(name)  # says which adapters there are, where there is none of that name
    phase = opened.experiment(name)
    if phase or json:
        _show(phase, json)
    else:
        typer.echo(f"No experiment is running on {name}.")


def _arm(name: str, text: str) -> Arm:
    version, _, share = text.partition("=")
    try:
        weight = float(share)
    except ValueError:
        raise UsageError(
            f"--arm {text}: no share.", fix="Write VERSION=SHARE, e.g. v1=50."
        ) from None
    if version == BASE_ARM:
        return Arm(BASE_ARM, None, weight)
    number = Ref.parse(f"{name}@{version}").number
    if number is None:
        raise UsageError(
            f"--arm {text}: an arm is a version or base.", fix="E.g. v1=50 or base=50."
        )
    return Arm(version, number, weight)


def _show(phase: Phase | None, json: bool) -> None:
    if json:
        emit_json(asdict(phase) if phase else None)
        return
    assert phase
    total = sum(arm.weight for arm in phase.arms)
    typer.echo(f"{phase.experiment} {phase.status} since {phase.time} by {phase.actor}")
    rows = [(arm.name, f"{arm.weight / total:.1%}") for arm in phase.arms]
    typer.echo(table(["arm", "share"], rows))
