"""`adapters canary`: what it starts, and what cannot be meant."""

from __future__ import annotations

import pytest

from adapters.experiments import Arm
from adapters.metrics import Metric
from adapters.registry import Registry
from tests.adapters.conftest import Run
from tests.conftest import BASE, MakeAdapter


@pytest.fixture
def house(make_adapter: MakeAdapter) -> Registry:
    """The registry that commands use when none is named: `support@v1` in production, to `v4`."""
    house = Registry.open()
    for seed in range(4):
        house.publish("support", make_adapter(seed=seed), base=BASE)
    house.promote("support@v1")
    house.promote("support@v3", "beta")
    return house


def test_it_starts_with_the_first_step_beside_what_is_in_production(
    house: Registry, run: Run
) -> None:
    code, said, _ = run("canary support@v4")
    assert code == 0
    assert "v4 takes over from v1 in steps of 1 %, 5 %, 25 %, 50 %, 100 %" in said
    phase = house.experiment("support")
    assert phase
    assert phase.status == "running"
    assert phase.arms == (Arm("v1", 1, 0.99), Arm("v4", 4, 0.01))
    design = phase.design
    assert (design.policy, design.steps) == ("canary", (0.01, 0.05, 0.25, 0.5, 1.0))
    assert design.metrics == (Metric("error", "guardrail", direction="decrease", limit=0.05),)
    assert (design.step_units, design.step_s, design.alias) == (100, 60.0, "production")


def test_everything_of_it_can_be_said(house: Registry, run: Run) -> None:
    line = (
        "canary support@v4 --alias beta --steps 20%,100% --min-units 7 --step-seconds 1.5 "
        "--primary solved --guardrail latency_ms>800<=5% --guardrail refusal<=1%"
    )
    assert run(line)[0] == 0
    phase = house.experiment("support")
    assert phase
    assert [arm.name for arm in phase.arms] == ["v3", "v4"]
    design = phase.design
    assert [metric.title for metric in design.guardrails] == ["latency_ms>800", "refusal"]
    assert design.primary == Metric("solved", "primary")
    assert (design.step_units, design.step_s, design.alias) == (7, 1.5, "beta")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("support@v1", 2, "v1 is what it should replace"),
        ("support@v9", 3, "v9"),
        ("support@v4 --alias none", 3, "no alias 'none'"),
        ("support@v4 --steps 100%", 2, "A canary that begins with 100% is none"),
        ("support@v4 --steps 0%,100%", 2, "begins with 0%"),
        ("support@v4 --steps 5%,50%", 2, "a canary's last step is 100 %"),
        ("support@v4 --steps 50%,5%,100%", 2, "steps that grow"),
        ("support@v4 --steps soon", 2, "is no number"),
        ("support@v4 --guardrail error", 2, "a guardrail has a limit or a margin"),
        ("tone@v1", 3, "tone"),
    ],
)
def test_what_cannot_be_meant_starts_nothing(
    house: Registry, run: Run, line: str, code: int, said: str
) -> None:
    found, _, error = run(f"canary {line}")
    assert (found, house.experiment("support")) == (code, None)
    assert said in error


def test_a_protected_alias_is_told_of_before_it_matters(house: Registry, run: Run) -> None:
    assert run("protect support")[0] == 0
    assert "the last step is left to you" in run("canary support@v4")[1]


def test_one_at_a_time(house: Registry, run: Run) -> None:
    assert run("canary support@v4")[0] == 0
    code, _, said = run("canary support@v2")
    assert code == 5
    assert "Stop it first: adapters ab stop support" in said
