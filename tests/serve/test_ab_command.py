"""`adapters ab start | show | stop`: the experiment they write, and what they refuse."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from adapters.cli.ab import app
from adapters.errors import AdaptersError, Conflict, NotFound, UsageError
from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version

START = ["start", "support", "--arm", "v1=50", "--arm", "v2=30", "--arm", "base=20"]


def run(registry: Registry, *arguments: str) -> str:
    """Run `adapters ab`; raises what it raises."""
    result = CliRunner().invoke(app, [*arguments, "--registry", registry.location])
    if isinstance(result.exception, AdaptersError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_start_show_and_stop(registry: Registry, support: tuple[Version, Version]) -> None:
    started = run(registry, *START, "--experiment", "tone", "--reason", "shorter answers")
    phase = registry.experiment("support")
    assert phase is not None
    assert phase.experiment == "tone"
    assert phase.reason == "shorter answers"
    assert phase.arms == (Arm("v1", 1, 50), Arm("v2", 2, 30), Arm("base", None, 20))
    assert "tone" in started
    assert "50.0%" in run(registry, "show", "support")
    assert "stopped" in run(registry, "stop", "support", "--reason", "done")
    assert registry.experiment("support") is None
    assert "No experiment" in run(registry, "show", "support")


def test_json(registry: Registry, support: tuple[Version, Version]) -> None:
    started = json.loads(run(registry, *START, "--json"))
    assert started["status"] == "running"
    assert started["arms"][0] == {"name": "v1", "version": 1, "weight": 50.0, "out": False}
    assert json.loads(run(registry, "show", "support", "--json")) == started
    assert json.loads(run(registry, "stop", "support", "--json"))["status"] == "stopped"
    assert json.loads(run(registry, "show", "support", "--json")) is None


@pytest.mark.parametrize(
    "arms",
    [["v1=50"], ["v1=50", "v1=50"], ["v1=50", "v2"], ["v1=50", "v2=x"], ["v1=50", "v2=0"],
     ["v1=50", "v2=-1"], ["v1=50", "v2=nan"], ["v1=50", "production=50"], ["v1=50", "=50"]],
)  # fmt: skip
def test_arms_that_cannot_be_meant(
    registry: Registry, support: tuple[Version, Version], arms: list[str]
) -> None:
    with pytest.raises(UsageError):
        run(registry, "start", "support", *(part for arm in arms for part in ("--arm", arm)))
    assert registry.experiment("support") is None


def test_what_is_not_there_and_what_runs_already(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    with pytest.raises(NotFound, match="v9"):
        run(registry, "start", "support", "--arm", "v1=50", "--arm", "v9=50")
    with pytest.raises(NotFound, match="support"):
        run(registry, "show", "suport")
    with pytest.raises(NotFound):
        run(registry, "stop", "support")
    run(registry, *START)
    with pytest.raises(Conflict, match="ab stop"):
        run(registry, *START)


def test_a_report_tells_what_arms_cost_where_a_price_is_said(
    registry: Registry, support: tuple[Version, Version]
) -> None:
    run(registry, *START)
    assert "at 0.1 and 0.4 a million" in run(registry, "report", "support", "--price", "0.1, 0.4")
    assert "cost" not in run(registry, "report", "support")
    for wrong in ("0.1", "0.1,0.4,0.5", "0.1,much", "-1,0.4", "nan,0.4", "0.1,inf", ""):
        with pytest.raises(UsageError, match="--price"):
            run(registry, "report", "support", "--price", wrong)
