"""`adapters ab`: experiments on live traffic, from the first draft to the end."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from adapters.cli.designs import design_flags
from adapters.cli.evidence import NameArgument, promote, report, simulate
from adapters.cli.registry import JsonOption, ReasonOption, RegistryOption
from adapters.cli.shadows import shadows
from adapters.designs import read_arm, read_design
from adapters.errors import UsageError
from adapters.experiments import Phase, Status
from adapters.registry import Registry
from adapters.render import emit_json, table

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Split live traffic between versions. Running servers follow within a second.",
)
ExperimentOption = Annotated[str | None, typer.Option(help="Its name.  [default: ab-N]")]


@app.command()
@design_flags
def create(
    name: NameArgument,
    said: Any,
    experiment: ExperimentOption = None,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Write an experiment down, and start nothing: `adapters ab start NAME` does.

    Example: adapters ab create support --arm v1 --arm v2 --primary solved --guardrail 'error<=5%'
    """
    _show(_begin(name, said, experiment, reason, registry, "draft"), json)


@app.command()
@design_flags
def start(
    name: NameArgument,
    said: Any,
    experiment: ExperimentOption = None,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Split requests for NAME; a user stays with one arm. Requests that pin a version bypass it.

    Without any arm, what was created starts, and what was paused goes on: every user gets the arm
    that they had.

    Example: adapters ab start support --arm v1=50 --arm v2=50
    """
    if said or experiment:
        phase = _begin(name, said, experiment, reason, registry, "running")
    else:
        phase = Registry.open(registry).resume_experiment(name, reason=reason)
    _show(phase, json)


app.command()(simulate)
app.command()(report)
app.command()(promote)
app.command()(shadows)


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
    arms = [read_arm(name, text) for text in arm]
    shares = {each.name: each.weight for each, _ in arms}
    if len(shares) < len(arms):
        raise UsageError("One arm has two shares.", fix="Name each arm once.")
    _show(Registry.open(registry).ramp_experiment(name, shares, reason=reason), json)


@app.command("take-out")
def take_out(
    name: NameArgument,
    arm: Annotated[str, typer.Argument(help="The arm, e.g. v2; never the control.")],
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Give an arm's users the control. Everybody else stays with the arm that they have.

    Example: adapters ab take-out support v2 --reason "it answers in French"
    """
    _show(Registry.open(registry).take_out(name, arm, reason=reason), json)


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


def _begin(
    name: str,
    said: dict[str, Any],
    experiment: str | None,
    reason: str,
    registry: str | None,
    status: Status,
) -> Phase:
    arms, design = read_design(name, said)
    return Registry.open(registry).start_experiment(
        name, arms, design=design, experiment=experiment, reason=reason, status=status
    )


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
    return [(arm.name, "out" if arm.out else f"{arm.weight / total:.1%}") for arm in phase.arms]
