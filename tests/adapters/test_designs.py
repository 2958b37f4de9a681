"""An experiment as people write it, and what of it cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.designs import read_design, read_file
from adapters.errors import AdaptersError, Conflict, UsageError
from adapters.experiments import Arm, Design
from adapters.metrics import Metric
from adapters.registry import Registry
from tests.conftest import BASE, MakeAdapter

TWO: dict[str, Any] = {"arms": ["v1", "v2"]}
HALVES = (Arm("v1", 1, 50), Arm("v2", 2, 50))


@pytest.fixture
def support(tmp_path: Path, make_adapter: MakeAdapter) -> Registry:
    """A registry with `support@v1` to `v3`, and `tone@v1`."""
    registry = Registry.open(tmp_path / "registry")
    for seed in (1, 2, 3):
        registry.publish("support", make_adapter(seed=seed), base=BASE)
    registry.publish("tone", make_adapter(seed=4), base=BASE)
    return registry


def test_flags_a_file_and_a_document_say_the_same(tmp_path: Path) -> None:
    said = {
        "arms": {"v1": 90, "v2": 10},
        "primary": "solved:effect=3%",
        "guardrails": ["error<=5%"],
        "traffic": "50%",
        "layer": "checkout",
        "layer_start": 0.5,
        "allow": {"ann": "v2"},
        "exclude": ["bob"],
        "unit_header": "X-Customer",
        "planned_units": 2000,
        "auto_promote": True,
        "shadow": "v3",
    }
    expected = Design(
        metrics=(
            Metric("solved", "primary", effect=0.03),
            Metric("error", "guardrail", direction="decrease", limit=0.05),
        ),
        planned_units=2000,
        unit_header="x-customer",
        traffic=0.5,
        layer="checkout",
        layer_start=0.5,
        allow={"ann": "v2"},
        exclude=("bob",),
        auto_promote=True,
        shadow=3,
    )
    arms = (Arm("v1", 1, 90), Arm("v2", 2, 10))
    assert read_design("support", said) == (arms, expected)
    (tmp_path / "tone.yaml").write_text(json.dumps(said))  # YAML, too
    assert read_design("support", read_file(tmp_path / "tone.yaml")) == (arms, expected)
    flags = {
        **said,
        "arms": ["v1=90", "v2=10"],
        "allow": ["ann=v2"],
        "layer_start": "50%",
        "planned_units": "2000",
    }
    assert read_design("support", flags) == (arms, expected)


def test_arms_without_shares_share_alike() -> None:
    arms, _ = read_design("support", {"arms": ["v1", "v2", "base"]})
    assert {arm.weight for arm in arms} == {1 / 3}
    assert [arm.version for arm in arms] == [1, 2, None]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"arms": ["v1"]}, "needs two arms"),
        ({"arms": {"v1": 50, "v2": 40}}, "sum to 90"),
        ({"arms": {"v1": 0.5, "v2": 0.6}}, "sum to 1.1"),
        ({"arms": ["v1=50", "v2"]}, "Some arms have a share"),
        ({"arms": ["v1=50", "v1=50"]}, "one name"),
        ({"arms": ["v1=nan", "v2=50"]}, "weight nan"),
        ({"arms": ["v1", "production"]}, "a version or base"),
        ({"arms": 5}, "Write a list"),
        ({**TWO, "primry": "solved"}, "no 'primry'"),
        ({**TWO, "primary": ["solved", "rating:mean"]}, "both primary"),
        ({**TWO, "alpha": 0}, "alpha"),
        ({**TWO, "alpha": "little"}, "no number"),
        ({**TWO, "planned_units": 1.5}, "planned_units is 1.5"),
        ({**TWO, "traffic": "0%"}, "traffic"),
        ({**TWO, "holdout": 1}, "holdout"),
        ({**TWO, "layer": "x", "layer_start": 0.5}, "over the layer's end"),
        ({**TWO, "layer_start": 0.5, "traffic": 0.5}, "is of a layer"),
        ({**TWO, "layer": "../x"}, "not an adapter name"),
        ({**TWO, "allow": {"ann": "v3"}}, "an arm that there is not"),
        ({**TWO, "allow": ["ann"]}, "names no arm"),
        ({**TWO, "exclude": ["x" * 201]}, "1 to 200"),
        ({**TWO, "auto_promote": True}, "nobody wins"),
        ({**TWO, "auto_promote": "yes"}, "true or false"),
        ({**TWO, "policy": "bandit"}, "needs a primary"),
        ({**TWO, "policy": "coin"}, "policy is"),
        ({**TWO, "policy": "bandit", "primary": "solved", "floor": 0.01}, "floor"),
        ({**TWO, "policy": "canary", "steps": ["1%", "0.5%", "100%"]}, "steps that grow"),
        ({**TWO, "policy": "canary", "steps": ["1%", "50%"]}, "last step"),
        ({"arms": {"v1": 90, "v2": 10}, "method": "exact"}, "equal shares"),
        ({**TWO, "method": "exact", "primary": "cost/solved"}, "knows no ratio"),
        ({**TWO, "method": "exact", "primary": "solved:covariate=prior"}, "knows no covariate"),
        ({**TWO, "shadow": "v2"}, "is an arm already"),
        ({**TWO, "shadow": "../v2"}, "not a ref"),
        ({**TWO, "alias": "latest"}, "cannot be an alias"),
        ({**TWO, "unit_header": "x customer:"}, "unit_header"),
    ],
)
def test_what_cannot_be_meant_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(AdaptersError, match=why) as refused:
        read_design("support", said)
    assert refused.value.fix


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- v1\n")
    (tmp_path / "broken.yaml").write_text("{")
    for name in ("list.yaml", "broken.yaml", "nowhere.yaml"):
        with pytest.raises(UsageError):
            read_file(tmp_path / name)


def test_a_draft_starts_as_it_was_written_down(support: Registry) -> None:
    arms, design = read_design("support", {**TWO, "primary": "solved"})
    draft = support.start_experiment("support", arms, design=design, status="draft")
    assert (draft.status, support.experiment("support")) == ("draft", draft)
    started = support.resume_experiment("support")
    assert (started.status, started.design, started.salt) == ("running", design, draft.salt)


def test_an_arm_is_taken_out_and_the_control_is_not(support: Registry) -> None:
    started = support.start_experiment("support", HALVES)
    with pytest.raises(UsageError, match="is the control"):
        support.take_out("support", "v1")
    with pytest.raises(UsageError, match="no arm 'v9'"):
        support.take_out("support", "v9")
    phase = support.take_out("support", "v2", reason="errors", after=started)
    assert [arm.out for arm in phase.arms] == [False, True]
    assert phase.probabilities() == {"v1": 1, "v2": 0}
    with pytest.raises(Conflict, match="out already"):
        support.take_out("support", "v2")
    with pytest.raises(Conflict, match="phase 2 by now"):
        support.stop_experiment("support", after=started)


def test_experiments_of_one_layer_take_disjoint_parts(support: Registry) -> None:
    layered = {"arms": ["v1", "v2"], "layer": "checkout", "traffic": 0.5}
    arms, design = read_design("support", layered)
    support.start_experiment("support", arms, design=design)
    other = read_design("tone", {"arms": ["v1", "base"], "layer": "checkout", "layer_start": 0.4,
                                 "traffic": 0.6})  # fmt: skip
    with pytest.raises(Conflict, match=r"ab-1 on support has 0 to 0\.5 of checkout"):
        support.start_experiment("tone", other[0], design=other[1])
    beside = read_design("tone", {"arms": ["v1", "base"], "layer": "checkout", "layer_start": 0.5,
                                  "traffic": 0.5})  # fmt: skip
    support.start_experiment("tone", beside[0], design=beside[1])
