"""What an experiment measures: metrics as people write them, and what they mean. Pure.

    solved                          share of requests whose outcome `solved` was true
    rating:mean                     mean of a number that was posted
    cost/solved                     sum of one by the sum of another
    finish_reason=length            share of requests with this label
    latency_ms>800                  share above a fixed limit: a quantile's objective
    preferred:preference            labels win, loss and tie, of this answer beside another's

A guardrail ends in its limit, `error<=5%`, or names a margin to control, `rating:mean:margin=0.1`.
Options follow after colons: `decrease` (less is better), `effect=` (least that is worth finding),
`covariate=prior_solved` (what was known of a unit before: takes its share out of the noise).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adapters.errors import UsageError
from adapters.types import is_name

Role = Literal["primary", "secondary", "guardrail"]
Kind = Literal["proportion", "mean", "ratio", "preference"]
Direction = Literal["increase", "decrease"]

DIRECTIONS: tuple[Direction, ...] = ("increase", "decrease")
KINDS: tuple[Kind, ...] = ("proportion", "mean", "ratio", "preference")
NUMBERS = ("latency_ms", "ttft_ms", "prompt_tokens", "output_tokens")
BOOLEANS = ("error", "refusal", "regenerate")
LABELS = ("finish_reason",)
"""What the server measures itself of a response: numbers, yes or no, one of several words."""
WORSE_WHEN_MORE = frozenset({"error", "refusal", "regenerate", "latency_ms", "ttft_ms"})
"""What the server measures, and nobody wants more of: their direction where none is said."""
_EXPRESSION = re.compile(
    r"(?P<name>[^\s/=<>:]+)"
    r"(?:/(?P<denominator>[^\s/=<>:]+)|=(?P<label>[^:<>]+?)|>(?P<above>[^:<>]+?))?"
    r"\s*(?:<=\s*(?P<limit>[^:<>]+?))?"
)
_OPTIONS = ("margin", "effect")


@dataclass(frozen=True, slots=True)
class Metric:
    """One question that an experiment asks of its outcomes."""

    name: str
    """Of the outcome that is measured: posted, or the server's own."""
    role: Role = "secondary"
    kind: Kind = "proportion"
    direction: Direction = "increase"
    """What is better."""
    effect: float | None = None
    """The least difference to control that is worth finding, above 0."""
    label: str | None = None
    """Count outcomes with this label."""
    above: float | None = None
    """Count outcomes above it."""
    denominator: str | None = None
    """Of a ratio: the outcome whose sum divides."""
    limit: float | None = None
    """Of a guardrail: the share that an arm must not exceed, between 0 and 1."""
    margin: float | None = None
    """Of a guardrail: by how much an arm may be worse than control, 0 or more."""
    covariate: str | None = None
    """A posted outcome that tells of a unit what was so before it was assigned (CUPED)."""

    @property
    def title(self) -> str:
        """What people call it: `latency_ms>800`; unique in an experiment."""
        if self.denominator is not None:
            return f"{self.name}/{self.denominator}"
        if self.label is not None:
            return f"{self.name}={self.label}"
        return self.name if self.above is None else f"{self.name}>{self.above:g}"

    @classmethod
    def parse(cls, text: str, role: Role) -> Metric:
        """Read a metric as it is written above.

        Raises:
            UsageError: it is none; says what is wrong with it.
        """
        expression, *options = text.split(":")
        found = _EXPRESSION.fullmatch(expression.strip())
        if found is None:
            raise _refused(text, "it is not written as one")
        kind: Kind = "ratio" if found["denominator"] else "proportion"
        named = dict[str, float]()
        covariate: str | None = None
        direction: Direction = "decrease" if found["name"] in WORSE_WHEN_MORE else "increase"
        if found["limit"]:
            direction = "decrease"
        for option in options:
            key, _, value = option.strip().partition("=")
            if key in _OPTIONS:
                named[key] = read_number(repr(text[:80]), value)
            elif key == "covariate":
                covariate = value.strip()
            elif key in KINDS and not found["denominator"]:
                kind = KINDS[KINDS.index(key)]
            elif key in DIRECTIONS:
                direction = DIRECTIONS[DIRECTIONS.index(key)]
            else:
                raise _refused(text, f"{option.strip()[:40]!r} is no option")
        return check_metric(
            cls(
                found["name"],
                role,
                kind,
                direction,
                label=found["label"],
                above=read_number(repr(text[:80]), found["above"]) if found["above"] else None,
                denominator=found["denominator"],
                limit=read_number(repr(text[:80]), found["limit"]) if found["limit"] else None,
                effect=named.get("effect"),
                margin=named.get("margin"),
                covariate=covariate,
            )
        )


def check_metric(metric: Metric) -> Metric:
    """Return a metric that can be measured.

    Raises:
        UsageError: it cannot; says why.
    """
    title = metric.title[:80]
    for name in (metric.name, metric.denominator, metric.covariate):
        if name is not None and not is_name(name):
            raise _refused(title, "a name is of a-z, 0-9, '.', '_' and '-'")
    if metric.kind not in KINDS or metric.direction not in DIRECTIONS:
        raise _refused(title, f"there is no {metric.kind!r:.20} that should {metric.direction!r}")
    if (metric.kind == "ratio") != (metric.denominator is not None):
        raise _refused(title, "a ratio has a denominator, and nothing else has")
    numbers = (metric.effect, metric.limit, metric.margin, metric.above)
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise _refused(title, "a number in it is not finite")
    if metric.kind != "proportion" and (metric.label is not None or metric.above is not None):
        raise _refused(title, "a label or a limit is counted, as a proportion")
    _check_measured(metric)
    _check_covariate(metric)
    if metric.effect is not None and metric.effect <= 0:
        raise _refused(title, "its least effect is not above 0")
    bounded = metric.limit is not None or metric.margin is not None
    if bounded != (metric.role == "guardrail"):
        raise _refused(title, "a guardrail has a limit or a margin, and nothing else has")
    if metric.limit is not None and metric.margin is not None:
        raise _refused(title, "a limit is of an arm alone, a margin against control: choose one")
    if metric.limit is not None and not (metric.kind == "proportion" and 0 < metric.limit < 1):
        raise _refused(title, "a limit is of a proportion, and between 0 and 1")
    if metric.margin is not None and metric.margin < 0:
        raise _refused(title, "its margin is below 0")
    return metric


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Refuse metrics that cannot be one experiment's.

    Raises:
        UsageError: several are primary, two are one, or one cannot be measured.
    """
    titles = [check_metric(metric).title for metric in metrics if metric.role != "guardrail"]
    primary = [metric.title for metric in metrics if metric.role == "primary"]
    if len(primary) > 1:
        raise UsageError(
            f"{' and '.join(primary)} are both primary.",
            fix="One metric decides; make the others secondary, or guardrails.",
        )
    guardrails = [metric.title for metric in metrics if metric.role == "guardrail"]
    for several in (titles, guardrails):
        if twice := next((title for title in several if several.count(title) > 1), None):
            raise UsageError(f"{twice} is there twice.", fix="Name each metric once.")


def read_number(what: str, said: str) -> float:
    """Return a number, or a share as it is written: 5% is 0.05.

    Raises:
        UsageError: it is none.
    """
    text = said.strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        raise UsageError(f"{what}: {said[:40]!r} is no number.", fix="E.g. 0.05, or 5%.") from None
    return number / 100 if text.endswith("%") else number


def _check_measured(metric: Metric) -> None:
    """Refuse to ask of the server's own measurements what they are not.

    Raises:
        UsageError: says how it can be asked.
    """
    title, name = metric.title[:80], metric.name
    if metric.denominator in LABELS or (name in LABELS and metric.label is None):
        raise _refused(title, f"{LABELS[0]} is one of several words: write {LABELS[0]}=length")
    if name in (*NUMBERS, *BOOLEANS) and (metric.label is not None or metric.kind == "preference"):
        raise _refused(title, f"{name} has no words to count")
    if name in NUMBERS and metric.kind == "proportion" and metric.above is None:
        raise _refused(title, f"{name} is a number: write {name}:mean, or {name}>800")


def _check_covariate(metric: Metric) -> None:
    """Refuse a covariate that is of no use, or would carry the effect.

    Raises:
        UsageError: says why.
    """
    title, covariate = metric.title[:80], metric.covariate
    if covariate is None:
        return
    if metric.kind in ("preference", "ratio"):
        raise _refused(title, f"a {metric.kind} has no covariate")
    if metric.limit is not None:
        raise _refused(title, "a limit compares with nothing, so a covariate is of no use")
    if covariate in (metric.name, *NUMBERS, *BOOLEANS, *LABELS):
        raise _refused(title, f"{covariate} is measured in the experiment, not before it")


def _refused(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text[:80]!r} is no metric: {why}.",
        fix="E.g. solved, rating:mean, latency_ms>800, error<=5% (see docs/experiments.md).",
    )
