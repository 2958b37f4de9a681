"""`adapters ab simulate | report | promote`: what an experiment will prove, does, and did."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.designs import design_flags
from adapters.cli.registry import ConfirmOption, JsonOption, ReasonOption, RegistryOption
from adapters.designs import read_design
from adapters.errors import NotFound, UsageError
from adapters.experiments import Arm, Design, Phase
from adapters.metrics import read_number
from adapters.registry import Registry
from adapters.render import emit_json, table

if TYPE_CHECKING:
    from serve.experiments.analysis import Report
    from serve.experiments.analysis.report import Price

NameArgument = Annotated[str, typer.Argument(help="The adapter.")]


StoreOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="ADAPTERS_STORE",
        help="Where its outcomes are.  [default: a file in $ADAPTERS_HOME]",
    ),
]
ExperimentOption = Annotated[
    str | None, typer.Option(help="Its name.  [default: the one on NAME, or the last]")
]


def report(
    name: NameArgument,
    experiment: ExperimentOption = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page of it, plots and all.")
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT,OUTPUT", help="Of a million tokens of each: shows what arms cost."
        ),
    ] = None,
    store: StoreOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is known of an experiment by now. Look as often as you like: its rates hold.

    Example: adapters ab report support --html report.html
    """
    from serve.experiments.analysis.page import page
    from serve.experiments.analysis.text import text

    paid = None if price is None else _price(price)
    _, found = _analysed(Registry.open(registry), name, experiment, store, paid)
    if html:
        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{html} cannot be written: {error.strerror}.", fix="Choose another file."
            ) from error
    if json:
        emit_json(found.as_json())
    else:
        typer.echo(f"{html}" if html else text(found))


def promote(
    name: NameArgument,
    arm: Annotated[str | None, typer.Option(help="Only if it is this one.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Without evidence; asks for --arm and --reason.")
    ] = False,
    reason: ReasonOption = "",
    experiment: ExperimentOption = None,
    confirmed: ConfirmOption = False,
    store: StoreOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Have the winner take over the alias, and stop the experiment; its evidence is kept.

    Refused without evidence, where arms do not get their shares, and where it breaks a guardrail.

    Example: adapters ab promote support
    """
    from serve.experiments.promotion import promote_winner

    opened = Registry.open(registry)
    phases, found = _analysed(opened, name, experiment, store)
    move = promote_winner(
        opened, name, phases, found, arm=arm, force=force, reason=reason, confirmed=confirmed
    )
    alias = phases[-1].design.alias
    if json:
        emit_json(None if move is None else {"adapter": name, "alias": alias, **asdict(move)})
    elif move is None:
        typer.echo(f"{name}@{alias} is there already; the experiment is over.")
    else:
        before = "nothing" if move.from_version is None else f"v{move.from_version}"
        typer.echo(f"{name}@{alias}: {before} -> v{move.to_version}")


@design_flags
def simulate(
    name: NameArgument,
    mean: Annotated[str, typer.Option(help="The metric under control, e.g. 30%.")],
    said: Any,
    sd: Annotated[float | None, typer.Option(help="Of one unit, where it is no share.")] = None,
    effect: Annotated[
        str | None, typer.Option(help="What to find, e.g. 3%.  [default: the metric's]")
    ] = None,
    units: Annotated[
        int | None, typer.Option(min=1, help="When to give up.  [default: planned units]")
    ] = None,
    units_per_day: Annotated[
        float | None, typer.Option(min=1, help="Traffic, to tell days, too.")
    ] = None,
    drift: Annotated[
        str, typer.Option(help="By how much the metric moves meanwhile, in all arms.")
    ] = "0",
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of each kind.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same one gives the same numbers.")] = 0,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Run the experiment on NAME, or one that flags describe, thousands of times over.

    Without an effect: how often anything is claimed, however often one looks. With it in the last
    arm: how often it is found, and after how many units.

    Example: adapters ab simulate support --mean 30% --effect 3% --units-per-day 800
    """
    from serve.experiments.forecast import forecast

    arms, design = read_design(name, said) if said else _planned(name, registry)
    found = forecast(
        arms,
        design,
        mean=read_number("--mean", mean),
        sd=sd,
        effect=None if effect is None else read_number("--effect", effect),
        units=units,
        drift=read_number("--drift", drift),
        runs=runs,
        seed=seed,
    ).as_json(units_per_day)
    if json:
        emit_json(found)
        return
    typer.echo(
        f"{found['metric']}: {found['mean']:g} and {found['mean'] + found['effect']:g}, "
        f"{found['arms']} arms, {found['units']:,} units, {found['runs']:,} runs of each, "
        f"{found['method']}"
    )
    within = found["units_80_percent"]
    rows = [
        ["false positives", _percent(found["false_positive_rate"]), f"alpha {found['alpha']:g}"],
        ["power", _percent(found["power"]), f"misled {found['misled']:.1%}"],
        ["units until it is found", f"{found['median_units']:,.0f}", _days(found["median_days"])],
        ["mean", f"{found['mean_units']:,.0f}", _days(found["mean_days"])],
        [
            "of four runs in five",
            "more" if within is None else f"{within:,.0f}",
            _days(found["days_80_percent"]),
        ],
        ["a test that looks once", f"{found['units_fixed']:,}", "for 80 % power"],
    ]
    typer.echo(table(["", "", ""], rows))


def _analysed(
    opened: Registry,
    name: str,
    experiment: str | None,
    url: str | None,
    price: Price | None = None,
) -> tuple[list[Phase], Report]:
    """Return the phases of an experiment that there is or was, and its report."""
    from serve.experiments.analysis import analyse
    from serve.experiments.store.sql import SqlStore

    phases = opened.phases(name, experiment)
    store = SqlStore(url)
    try:
        return phases, analyse(name, phases, store, now_s=time.time(), price=price)
    finally:
        store.close()


def _price(said: str) -> Price:
    numbers = [read_number("--price", each) for each in said.split(",")]
    if len(numbers) != 2 or not all(0 <= number < math.inf for number in numbers):
        raise UsageError(f"--price: {said[:40]!r} is no pair of prices.", fix="E.g. 0.1,0.4.")
    return numbers[0], numbers[1]


def _planned(name: str, registry: str | None) -> tuple[tuple[Arm, ...], Design]:
    opened = Registry.open(registry)
    opened.versions(name)  # says which adapters there are, where there is none of that name
    if phase := opened.experiment(name):
        return phase.arms, phase.design
    raise NotFound(
        f"No experiment is on {name}.",
        fix="Describe one: --arm v1 --arm v2 --primary solved:effect=3%",
    )


def _percent(rate: dict[str, float]) -> str:
    return f"{rate['rate']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"


def _days(days: float | None) -> str:
    return "" if days is None else f"{days:,.1f} days"
