"""An experiment with one arm: a shadow stands beside it, and nothing is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.designs import read_design
from adapters.errors import UsageError
from adapters.experiments import Arm, Design
from adapters.metrics import Metric
from adapters.registry import Registry
from tests.conftest import BASE, MakeAdapter

ONE = (Arm("v1", 1, 100),)
PRIMARY = (Metric("solved", "primary"),)


@pytest.fixture
def support(tmp_path: Path, make_adapter: MakeAdapter) -> Registry:
    """A registry with `support@v1` and `v2`."""
    registry = Registry.open(tmp_path / "registry")
    for seed in (1, 2):
        registry.publish("support", make_adapter(seed=seed), base=BASE)
    return registry


def test_a_shadow_stands_beside_one_arm(support: Registry) -> None:
    phase = support.start_experiment("support", ONE, design=Design(shadow=2))
    assert phase.versions() == {1, 2}
    assert support.experiment("support") == phase
    support.ramp_experiment("support", {"v1": 1})
    with pytest.raises(UsageError, match="control"):
        support.take_out("support", "v1")


def test_it_is_written_down_as_any_other() -> None:
    assert read_design("support", {"arms": ["v1"], "shadow": "v2"}) == (
        (Arm("v1", 1, 1.0),),
        Design(shadow=2),
    )


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"shadow": 1},
        {"shadow": 2, "policy": "canary", "steps": (0.5, 1.0)},
        {"shadow": 2, "policy": "bandit", "metrics": PRIMARY},
        {"shadow": 2, "auto_promote": True, "metrics": PRIMARY},
    ],
)
def test_one_arm_is_compared_with_nothing(support: Registry, design: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        support.start_experiment("support", ONE, design=Design(**design))
