"""`adapters ab start | ramp | pause | stop | show | list | log`: experiments on live traffic."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from adapters.cli.registry import JsonOption, ReasonOption, RegistryOption
from adapters.errors import UsageError
from adapters.experiments import Arm, Phase
from adapters.registry import Registry
from adapters.render import emit_json, table
from adapters.types import BASE_ARM, Ref

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
        list[str] | None,
        typer.Option(help="VERSION=SHARE, e.g. v1=50; `base` is the base. Repeat it."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Its name.  [default: ab-N]")] = None,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Split requests for NAME; a user stays with one arm. Requests that pin a version bypass it.

    Without --arm, a paused experiment goes on: every user gets the arm that they had.

    Example: adapters ab start support --arm v1=50 --arm v2=50
    """
    opened = Registry.open(registry)
    if arm or experiment:
        arms = [_arm(name, text) for text in arm or ()]
        phase = opened.start_experiment(name, arms, experiment=experiment, reason=reason)
    else:
        phase = opened.resume_experiment(name, reason=reason)
    _show(phase, json)


@app.command()
def ramp(
    name: NameArgument,
    arm: Annotated[list[str], typer.Option(help="ARM=SHARE, e.g. v2=90. Repeat it for each.")],
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Give the arms other shares. Between two arms users move one way only.

    Example: adapters ab ramp support --arm v1=75 --arm v2=25
    """
    shares = dict(_share(text) for text in arm)
    _show(Registry.open(registry).ramp_experiment(name, shares, reason=reason), json)


@app.command()
def pause(
    name: NameArgument,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Have NAME mean production for now; `adapters ab start NAME` has the experiment go on.

    Example: adapters ab pause support --reason "the labels are wrong"
    """
    _show(Registry.open(registry).pause_experiment(name, reason=reason), json)


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
    """Show the experiment on NAME that runs or is paused.

    Example: adapters ab show support
    """
    opened = Registry.open(registry)
    opened.versions(name)  # says which adapters there are, where there is none of that name
    phase = opened.experiment(name)
    if phase or json:
        _show(phase, json)
    else:
        typer.echo(f"No experiment is running on {name}.")


@app.command("list")
def list_(registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List all experiments there are and were, of every adapter.

    Example: adapters ab list
    """
    opened = Registry.open(registry)
    found = [(name, each[-1]) for name in opened.names() for each in opened.experiments(name)]
    if json:
        emit_json([{"adapter": name, **asdict(phase)} for name, phase in found])
        return
    rows = [(name, p.experiment, p.status, p.time, _line(p)) for name, p in found]
    typer.echo(table(["adapter", "experiment", "status", "since", "shares"], rows))


@app.command()
def log(name: NameArgument, registry: RegistryOption = None, json: JsonOption = False) -> None:
    """Show every phase of the experiments on NAME, oldest first.

    Example: adapters ab log support
    """
    phases = [phase for each in Registry.open(registry).experiments(name) for phase in each]
    if json:
        emit_json([asdict(phase) for phase in phases])
        return
    rows = [(p.time, p.actor, p.experiment, p.status, _line(p), p.reason) for p in phases]
    typer.echo(table(["time", "actor", "experiment", "status", "shares", "reason"], rows))


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise UsageError(
            f"--arm {text}: no share.", fix="Write VERSION=SHARE, e.g. v1=50."
        ) from None


def _arm(name: str, text: str) -> Arm:
    version, weight = _share(text)
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
    typer.echo(f"{phase.experiment} {phase.status} since {phase.time} by {phase.actor}")
    typer.echo(table(["arm", "share"], _shares(phase)))


def _line(phase: Phase) -> str:
    return ", ".join(f"{name} {share}" for name, share in _shares(phase))


def _shares(phase: Phase) -> list[tuple[str, str]]:
    total = sum(arm.weight for arm in phase.arms)
    return [(arm.name, f"{arm.weight / total:.1%}") for arm in phase.arms]
