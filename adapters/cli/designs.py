"""The flags of an experiment's design, for each command that takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adapters.designs import read_file

_FLAGS: dict[str, Any] = {
    "arms": Annotated[
        list[str] | None,
        typer.Option("--arm", help="VERSION=SHARE, e.g. v1=50; `base` is the base. Repeat it."),
    ],
    "primary": Annotated[
        str | None, typer.Option(help="The metric that decides, e.g. solved:effect=0.03.")
    ],
    "secondary": Annotated[
        list[str] | None, typer.Option(help="A metric that is shown, e.g. rating:mean.")
    ],
    "guardrails": Annotated[
        list[str] | None,
        typer.Option("--guardrail", help="What no arm may do, e.g. 'error<=5%'."),
    ],
    "alpha": Annotated[float | None, typer.Option(help="Of any false claim.  [default: 0.05]")],
    "planned_units": Annotated[
        int | None, typer.Option(help="Where the interval is narrowest.  [default: 5000]")
    ],
    "method": Annotated[
        Literal["asymptotic", "exact"] | None,
        typer.Option(help="exact: few units, equal shares.  [default: asymptotic]"),
    ],
    "unit_header": Annotated[
        str | None, typer.Option(help="The header that names the unit.  [default: the user]")
    ],
    "traffic": Annotated[
        str | None, typer.Option(help="Share of units that take part.  [default: 100%]")
    ],
    "holdout": Annotated[
        str | None, typer.Option(help="Share of units that never do.  [default: 0%]")
    ],
    "layer": Annotated[str | None, typer.Option(help="Experiments of one layer share no unit.")],
    "layer_start": Annotated[
        str | None, typer.Option(help="Where in its layer it begins.  [default: 0%]")
    ],
    "allow": Annotated[
        list[str] | None, typer.Option(help="UNIT=ARM: who tries it out, and counts nowhere.")
    ],
    "exclude": Annotated[list[str] | None, typer.Option(help="A unit that takes no part.")],
    "policy": Annotated[
        Literal["split", "bandit"] | None,
        typer.Option(help="bandit: shares follow the better arms.  [default: split]"),
    ],
    "floor": Annotated[
        str | None, typer.Option(help="A bandit's least share of an arm.  [default: 5%]")
    ],
    "auto_promote": Annotated[
        bool | None,
        typer.Option("--auto-promote/--no-auto-promote", help="Promote the winner, and stop."),
    ],
    "auto_rollback": Annotated[
        bool | None,
        typer.Option(
            "--auto-rollback/--no-auto-rollback",
            help="Take an arm out that breaks a guardrail.  [default: auto-rollback]",
        ),
    ],
    "alias": Annotated[
        str | None, typer.Option(help="What the winner is promoted to.  [default: production]")
    ],
    "shadow": Annotated[
        str | None, typer.Option(help="A version that gets copies, e.g. v4; nobody its answers.")
    ],
    "shadow_share": Annotated[
        str | None, typer.Option(help="Share of requests copied.  [default: 100%]")
    ],
    "keep_answers": Annotated[
        bool | None,
        typer.Option("--keep-answers/--no-keep-answers", help="Store both answers; ask users."),
    ],
}
_CONFIG = Annotated[
    Path | None, typer.Option(help="A YAML file of the same keys; flags win.  [default: none]")
]


def design_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a design; they arrive as `said`, with what a file says.

    What is neither in a flag nor in the file is not among them.
    """

    def run(**given: Any) -> None:
        path = given.pop("config")
        said = read_file(path) if path else {}
        said |= {key: value for key in _FLAGS if (value := given.pop(key)) is not None}
        command(**given, said=said)

    parameters = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if name != "said":
            parameters.append(parameter)
            continue
        for key, option in {**_FLAGS, "config": _CONFIG}.items():
            parameters.append(parameter.replace(name=key, annotation=option, default=None))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
