"""`adapters canary`: a version takes over by steps, or is rolled back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from adapters.cli.registry import JsonOption, ReasonOption, RegistryOption
from adapters.designs import CANARY_GUARDRAIL, CANARY_STEPS, read_canary
from adapters.registry import Registry
from adapters.render import emit_json
from adapters.types import PRODUCTION, Ref


def canary(
    ref: Annotated[str, typer.Argument(help="The version that takes over, e.g. support@v4.")],
    steps: Annotated[
        str, typer.Option(help="Shares of the units, growing; 100% is the promotion.")
    ] = CANARY_STEPS,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(help=f"What it may not do; repeatable.  [default: {CANARY_GUARDRAIL}]"),
    ] = None,
    primary: Annotated[
        str | None, typer.Option(help="A metric in which it may not prove worse, e.g. solved.")
    ] = None,
    min_units: Annotated[
        int, typer.Option(min=1, help="Units that it serves at each step, at least.")
    ] = 100,
    step_seconds: Annotated[
        float, typer.Option(min=0, help="How long each step lasts, at least.")
    ] = 60,
    alias: Annotated[str, typer.Option(help="What it takes over.")] = PRODUCTION,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Give a version ever more of the units, by itself; at the last step, promote it.

    Running servers look every few seconds. Where it breaks a guardrail, or proves worse than what
    ALIAS leads to now, they end it, and everybody has that again.

    Example: adapters canary support@v4 --steps 1%,5%,25%,50%,100% --guardrail 'error<=5%'
    """
    opened = Registry.open(registry)
    parsed = Ref.parse(ref)
    number, control = opened.number(parsed), opened.number(Ref.parse(f"{parsed.name}@{alias}"))
    said = {"steps": steps, "guardrails": guardrail, "primary": primary, "alias": alias}
    wait = {"step_units": min_units, "step_s": step_seconds}
    arms, design = read_canary(parsed.name, control, number, {**said, **wait})
    phase = opened.start_experiment(parsed.name, arms, design=design, reason=reason)
    if json:
        emit_json(asdict(phase))
        return
    shares = ", ".join(f"{share:g} %" for share in (round(100 * step, 6) for step in design.steps))
    typer.echo(f"{phase.experiment}: v{number} takes over from v{control} in steps of {shares}.")
    typer.echo(f"Follow it with: adapters ab report {parsed.name}")
    if alias in opened.protected(parsed.name):
        typer.echo(f"{parsed.name}@{alias} is protected, so the last step is left to you.")
