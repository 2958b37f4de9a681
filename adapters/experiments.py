"""What an experiment may be: its arms, its design, its phases. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from adapters.errors import UsageError
from adapters.metrics import Metric, check_metrics
from adapters.types import BASE_ARM, PRODUCTION, check_alias, check_name

Status = Literal["draft", "running", "paused", "stopped"]
Policy = Literal["split", "canary", "bandit"]
Method = Literal["asymptotic", "exact"]

LEAST_FLOOR = 0.05
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")  # RFC 9110, 5.6.2
_MOST_LISTED = 1000
_LONGEST_UNIT = 200
_CLOSE = 1e-6


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of an experiment: a version, or the base where `version` is None."""

    name: str
    version: int | None
    weight: float
    """Share of the units; all arms' sum to 1 or to 100."""
    out: bool = False
    """Taken out: its units get the control. They keep their place, so no other unit moves."""


@dataclass(frozen=True, slots=True)
class Design:
    """What is chosen before an experiment starts, and stays: else no error rate would hold."""

    metrics: tuple[Metric, ...] = ()
    alpha: float = 0.05
    """Probability of any false claim at all, however often one looks."""
    planned_units: int = 5000
    """At how many units of two arms the interval is narrowest."""
    method: Method = "asymptotic"
    """exact: of few units, at equal shares, outcomes between 0 and 1."""
    unit_header: str | None = None
    """The request header whose value is the unit, in lower case. None: the user, else the session,
    else the request alone."""
    traffic: float = 1.0
    """Share of the units that take part; the others get what they would without it."""
    holdout: float = 0.0
    """Share of the units that never take part: the same ones in each experiment that has it."""
    layer: str | None = None
    """Experiments of one layer, of whatever adapters, share no unit."""
    layer_start: float = 0.0
    """Where in its layer, [0, 1), its share `traffic` begins."""
    allow: Mapping[str, str] = field(default_factory=dict)
    """Units that get an arm by name, and count nowhere: people who try it out."""
    exclude: tuple[str, ...] = ()
    """Units that take no part."""
    policy: Policy = "split"
    """Who moves the shares: people, a canary's steps, or a bandit."""
    steps: tuple[float, ...] = ()
    """Of a canary: the second arm's shares, growing, the last one 1."""
    step_units: int = 100
    """Of a canary: units of the second arm that each step sees at least."""
    step_s: float = 60.0
    """Of a canary: how long each step lasts at least."""
    floor: float = LEAST_FLOOR
    """Of a bandit: the least share of an arm."""
    auto_promote: bool = False
    """Move `alias` to the winner, and stop, as soon as there is one."""
    auto_rollback: bool = True
    """Take an arm out as soon as it breaks a guardrail."""
    alias: str = PRODUCTION
    """What the winner is promoted to."""
    shadow: int | None = None
    """A version that gets copies of requests; nobody gets its answers."""
    shadow_share: float = 1.0
    """Share of the requests that are copied."""
    keep_answers: bool = False
    """Store the answers of both: whoever says so has its users' consent."""

    @property
    def primary(self) -> Metric | None:
        """The metric that decides."""
        return next((metric for metric in self.metrics if metric.role == "primary"), None)

    @property
    def guardrails(self) -> tuple[Metric, ...]:
        return tuple(metric for metric in self.metrics if metric.role == "guardrail")


@dataclass(frozen=True, slots=True)
class Phase:
    """One line of `experiments/<experiment>.jsonl`: every change is a new phase.

    The salt stays for the experiment's life, so a changed split moves units one way only.
    """

    experiment: str
    number: int
    status: Status
    """Draft: it never ran. Paused: requests go where they would without it, and units come back
    to their arms."""
    salt: str
    arms: tuple[Arm, ...]
    """The first is the control."""
    time: str
    actor: str
    reason: str = ""
    design: Design = Design()

    @property
    def control(self) -> Arm:
        """What the other arms are compared with."""
        return self.arms[0]

    def arm(self, name: str) -> Arm:
        """Return an arm by its name.

        Raises:
            UsageError: there is none of it; names those there are.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UsageError(
            f"{self.experiment} has no arm {name[:80]!r}.",
            fix=f"It has {', '.join(arm.name for arm in self.arms)}.",
        )

    def versions(self) -> set[int]:
        """Return the versions that it serves, its shadow's among them; not of arms that are out."""
        found = {arm.version for arm in self.arms if not arm.out} | {self.design.shadow}
        return {number for number in found if number is not None}

    def probabilities(self) -> dict[str, float]:
        """Return with which probability a unit is assigned to each arm, by name; 0 of those out."""
        total = math.fsum(arm.weight for arm in self.arms)
        shares = {arm.name: 0.0 if arm.out else arm.weight / total for arm in self.arms}
        shares[self.control.name] += math.fsum(arm.weight for arm in self.arms if arm.out) / total
        return shares


def check_arms(arms: Sequence[Arm], *, alone: bool = False) -> None:
    """Refuse arms that are none, or no two.

    `alone`: whether one will do, as where a shadow stands beside it.

    Raises:
        InvalidName: an arm's name is none.
        UsageError: fewer than two arms, two of one name, no version, a share that is not above 0,
            or shares that do not sum.
    """
    if len(arms) < 2 - alone:
        raise UsageError("An experiment needs two arms.", fix="Repeat --arm, e.g. --arm v1=50.")
    if len({arm.name for arm in arms}) < len(arms):
        raise UsageError("Two arms have one name.", fix="Name each side once.")
    for arm in arms:
        check_name(arm.name)  # it becomes a header's value and a metric's label
        if not 0 < arm.weight < float("inf"):
            raise UsageError(f"Arm {arm.name} has weight {arm.weight}.", fix="Use a share above 0.")
        if (arm.name == BASE_ARM) != (arm.version is None):
            raise UsageError(f"Arm {arm.name} names no version.", fix="Write v1, v2 … or base.")
    if arms[0].out:
        raise UsageError(
            f"{arms[0].name} is the control, and cannot be taken out.", fix="Stop the experiment."
        )
    total = math.fsum(arm.weight for arm in arms)
    if not any(math.isclose(total, whole, rel_tol=_CLOSE) for whole in (1, 100)):
        raise UsageError(
            f"The shares sum to {total:g}.", fix="Make them sum to 100, or to 1; or leave all out."
        )


def check_design(design: Design, arms: Sequence[Arm]) -> None:
    """Refuse a design that cannot be meant.

    Raises:
        InvalidName: its alias or layer is no name.
        UsageError: says what of it cannot be.
    """
    check_metrics(design.metrics)
    check_alias(design.alias)
    if design.layer is not None:
        check_name(design.layer)
    header = design.unit_header
    exact = design.method == "exact"
    equal = math.isclose(min(a.weight for a in arms), max(a.weight for a in arms), rel_tol=_CLOSE)
    kinds = {metric.kind for metric in design.metrics if metric.role != "guardrail"}
    shares = [arm.weight / math.fsum(a.weight for a in arms) for arm in arms]
    grows = all(low < high for low, high in zip(design.steps, design.steps[1:], strict=False))
    for wrong, why in (
        (not 0 < design.alpha < 0.5, "alpha must lie between 0 and 0.5"),
        (design.planned_units < 1, "planned_units must be 1 or more"),
        (not 0 < design.traffic <= 1, "traffic is a share, above 0"),
        (not 0 <= design.holdout < 1, "holdout is a share, below 1"),
        (
            not (design.layer_start >= 0 and design.layer_start + design.traffic <= 1 + _CLOSE),
            "layer_start and traffic reach over the layer's end",
        ),
        (design.layer is None and design.layer_start != 0, "layer_start is of a layer"),
        (
            header is not None and not _HEADER.fullmatch(header),
            "unit_header is a request header's name, in lower case",
        ),
        (
            max(len(design.allow), len(design.exclude)) > _MOST_LISTED,
            f"allow and exclude list at most {_MOST_LISTED} units",
        ),
        (
            any(not unit or len(unit) > _LONGEST_UNIT for unit in (*design.allow, *design.exclude)),
            f"a unit has 1 to {_LONGEST_UNIT} characters",
        ),
        (
            not {arm.name for arm in arms} >= set(design.allow.values()),
            "allow names an arm that there is not",
        ),
        (exact and not equal, "the exact method needs equal shares"),
        (exact and design.policy != "split", "the exact method needs shares that stay"),
        (exact and "ratio" in kinds, "the exact method knows no ratio"),
        (
            exact and any(metric.covariate for metric in design.metrics),
            "the exact method compares what was measured, and knows no covariate",
        ),
        (design.policy not in ("split", "canary", "bandit"), "policy is split, canary or bandit"),
        (
            design.policy == "canary"
            and not (len(arms) == 2 and design.steps and grows and design.steps[0] > 0),
            "a canary has two arms, and steps that grow",
        ),
        (
            design.policy == "canary" and design.steps[-1:] != (1.0,),
            "a canary's last step is 100 %",
        ),
        (
            design.policy == "bandit" and (design.primary is None or len(arms) < 2),
            "a bandit needs a primary metric to follow, and two arms",
        ),
        (
            design.policy == "bandit"
            and not LEAST_FLOOR <= design.floor <= min(1 / len(arms), *shares) + _CLOSE,
            f"floor lies between {LEAST_FLOOR} and each arm's share",
        ),
        (
            design.auto_promote and (design.primary is None or len(arms) < 2),
            "without a primary metric and two arms nobody wins",
        ),
        (design.step_units < 1 or not 0 <= design.step_s < 1e9, "a canary's steps take something"),
        (not 0 < design.shadow_share <= 1, "shadow_share is a share, above 0"),
        (
            design.shadow is not None and any(arm.version == design.shadow for arm in arms),
            "the shadow is an arm already",
        ),
    ):
        if wrong:
            raise UsageError(f"This design cannot be: {why}.", fix="See docs/experiments.md.")


def ramped(arms: Sequence[Arm], shares: Mapping[str, float]) -> tuple[Arm, ...]:
    """Return the same arms, in the same order, with other shares.

    The order must stay: it is why units move one way only (`serve.routes.assignment`).

    Raises:
        UsageError: not exactly these arms are named, or their shares are none.
    """
    if shares.keys() != {arm.name for arm in arms}:
        raise UsageError(
            f"The arms are {', '.join(arm.name for arm in arms)}.",
            fix="Give each its share: " + " ".join(f"--arm {arm.name}=50" for arm in arms),
        )
    changed = tuple(replace(arm, weight=shares[arm.name]) for arm in arms)
    check_arms(changed, alone=len(arms) == 1)
    return changed


def without(arms: Sequence[Arm], name: str) -> tuple[Arm, ...]:
    """Return the arms, one of them taken out.

    Raises:
        UsageError: it is the control.
    """
    changed = tuple(replace(arm, out=arm.out or arm.name == name) for arm in arms)
    check_arms(changed, alone=len(arms) == 1)
    return changed
