"""What is known of an experiment: plain values, the same for people, programs and its own keeper.

Values are in the metric's own unit, shares between 0 and 1. Nothing here is infinite or NaN but
`log_e`, which may be −∞ where a float cannot tell E from 0; `as_json` says null there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from adapters.experiments import Design, Status
from adapters.metrics import Kind, Role

Method = Literal["difference", "propensities", "blocks", "bounded", "preferences"]
"""Which of `serve.experiments.statistics` was asked."""
Price = tuple[float, float]
"""Of a million prompt tokens, and of a million output tokens; any currency."""
Decision = Literal["collecting", "frozen", "breached", "winner", "no_difference", "stopped"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric of one arm by itself: shown, not compared (`Comparison` is)."""

    title: str
    role: Role | Literal["implicit"]
    """implicit: nobody asked, the server measures it anyway."""
    kind: Kind
    count: int
    """What was measured: responses, of a ratio units."""
    value: float | None
    """None: nothing was measured."""
    low: float | None
    high: float | None
    """Of the value, at all times with probability 1 − α; None while it is held back."""


@dataclass(frozen=True, slots=True)
class Side:
    """One arm. Units that crossed between arms within a phase are told, and counted nowhere."""

    arm: str
    version: int | None
    """None: the base."""
    out: bool
    share: float
    """Probability with which a unit is assigned to it now."""
    units: int
    exposures: int
    crossed: int
    metrics: tuple[Measured, ...]
    cost: float | None = None
    """Of 1,000 responses, by their mean tokens and `Report.price`; None without them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm beside the control in one metric."""

    title: str
    role: Role
    kind: Kind
    arm: str
    method: Method
    value: float | None
    """arm − control; of a preference P(win) − P(loss). None: nothing to compare yet."""
    low: float | None
    high: float | None
    """Of the value, at all times with probability 1 − α/m, m arms beside control."""
    log_e: float
    """Evidence against "no difference", of all that is known now."""
    p: float
    """1/E: whenever one looks and stops, at most α with probability at most α."""
    decided: Literal["better", "worse"] | None
    """Of a primary: log_e ≥ ln(m/α); of the others: e-BH. None of all where the report is frozen.
    """
    waiting: str
    """Why nothing can be said yet, to follow a colon; empty where something can."""
    adjusted: bool = False
    """By the metric's covariate (CUPED): `Side.metrics` are not, so their difference is another."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One guardrail of one arm beside control."""

    title: str
    arm: str
    value: float | None
    """Of a limit the arm's mean share; of a margin by how much it is worse than control."""
    limit: float | None
    margin: float | None
    log_e: float
    threshold: float
    """ln(g/α), g guardrails: a sound arm reaches it with probability at most α, ever."""
    breached: bool


@dataclass(frozen=True, slots=True)
class Look:
    """One arm beside the control in the primary metric, of the first so many units.

    With all that is known of them now: what came late is in it, so a report at that time may have
    shown less. Looks are drawn; what decides is the comparison.
    """

    arm: str
    units: int
    """of all arms"""
    at_s: float
    """When the last of them was first seen; Unix time."""
    value: float | None
    low: float | None
    high: float | None
    log_e: float
    p: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from it all."""

    kind: Decision
    arm: str | None
    """The winner, or the arm that broke a guardrail: one that is not out, if any such did."""
    said: str
    """One sentence: what to do next."""
    evidence: dict[str, Any]
    """Plain JSON, for the history of the alias that is moved."""


@dataclass(frozen=True, slots=True)
class Report:
    """An experiment at one moment."""

    adapter: str
    experiment: str
    phase: int
    status: Status
    as_of_s: float
    design: Design
    sides: tuple[Side, ...]
    """Control first."""
    comparisons: tuple[Comparison, ...]
    """Of each primary and secondary metric, each arm beside control."""
    guards: tuple[Guard, ...]
    looks: tuple[Look, ...]
    sample_ratio_log_e: float
    """Evidence that arms do not get their shares."""
    frozen: bool
    """They do not: no comparison means anything."""
    verdict: Verdict
    best: Mapping[str, float] | None = None
    """P(best in the primary metric) of each arm that is not out: shown, and never used to stop.
    None before each has something. As if no base rate moved while shares did."""
    loss: Mapping[str, float] = field(default_factory=dict)
    """What choosing it is expected to lose, in the primary metric."""
    by_request: int = 0
    """Units that were one request each, as nothing said who asked (`Exposure.source`)."""
    price: Price | None = None

    @property
    def control(self) -> Side:
        return self.sides[0]

    @property
    def primary(self) -> tuple[Comparison, ...]:
        """The comparisons that decide."""
        return tuple(each for each in self.comparisons if each.role == "primary")

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON: null for what is not finite, and no unit by name."""
        said: dict[str, Any] = plain(asdict(self))
        for named in ("allow", "exclude"):
            said["design"][named] = len(said["design"][named])
        return said


def plain(value: Any) -> Any:
    """Return JSON's own types alone, null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
