"""The port `Store`: what is kept of experiments on live traffic, and what reports read of it.

`serve.experiments.store.sql` is the one implementation, on SQLite and on PostgreSQL. An experiment
is named here by a text that is unique among all adapters (`support/ab-1`). Times are Unix time.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy
from numpy.typing import NDArray

from adapters.errors import Conflict, UsageError
from adapters.metrics import BOOLEANS, LABELS, NUMBERS
from adapters.types import is_name

IMPLICIT = (*NUMBERS, *BOOLEANS, *LABELS)
"""Metrics that the server measures itself, as they are called in `Exposure`."""
MOST_OUTCOMES = 1000
"""In one call of `record`."""
_SMALLEST, _LARGEST = 1e-100, 1e100
_LONGEST_KEY, _LONGEST_LABEL, _LONGEST_COMMENT = 200, 200, 4000

Value = float | bool | str
"""What was measured: a number, yes or no, or a label."""
Kind = Literal["number", "boolean", "label"]


@dataclass(frozen=True, slots=True)
class Exposure:
    """One response that was served under an experiment, and what the server saw of it."""

    experiment: str
    phase: int
    arm: str
    unit: str
    """As `units.stored` writes it: hashed unless somebody chose otherwise."""
    probability: float
    """Of this arm for this unit, when it was assigned; above 0."""
    request_id: str
    at_s: float
    error: bool = False
    """The server's fault or the engine's, before or in the middle of an answer."""
    refusal: bool = False
    latency_ms: float | None = None
    """Until the answer's last byte, or until the client left; None: it failed, or was refused."""
    ttft_ms: float | None = None
    """Of a stream: until its first token."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    """As vLLM counts them; None: it did not say, or there was no answer."""
    finish_reason: str | None = None
    """In the words of OpenAI's chat completions, whatever the endpoint."""
    regenerate: bool = False
    """The same unit asked the very same again: the answer that it had was not what it wanted."""
    source: str = "user"
    """How the unit was known: header, user, session; or request, where it was not, and each
    request is a unit by itself."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells a batch that is written again from another answer: clients may repeat request ids."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result posted back for one request: `metric` came out as `value`."""

    experiment: str
    phase: int
    arm: str
    unit: str
    request_id: str
    metric: str
    value: Value
    at_s: float
    """When it was received."""
    key: str = ""
    """Idempotency key among the outcomes of one request; by default the metric, so that a request
    has one outcome of each metric, however often its token is sent."""
    comment: str = ""
    late: bool = False
    """It came after the experiment had stopped: kept, and never counted (`Store.units`)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be kept or counted.

        Raises:
            UsageError: a metric's name that is none or the server's own, a number that cannot
                be squared (not finite, say), an empty label, or a text that is too long or no text.
        """
        if not is_name(self.metric):
            raise UsageError(
                f"{self.metric[:80]!r} is not a metric's name.",
                fix="Use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit.",
            )
        if self.metric in IMPLICIT:
            raise UsageError(
                f"{self.metric} is measured by the server itself.", fix="Post under another name."
            )
        if isinstance(self.value, str):
            _check_text("label", self.value, _LONGEST_LABEL)
            if not self.value:
                raise UsageError(f"{self.metric} has an empty label.", fix="Send a word.")
        else:
            _check_number(self.metric, self.value)
        object.__setattr__(self, "key", self.key or self.metric)
        _check_text("idempotency key", self.key, _LONGEST_KEY)
        _check_text("comment", self.comment, _LONGEST_COMMENT)

    @property
    def kind(self) -> Kind:
        if isinstance(self.value, str):
            return "label"
        return "boolean" if isinstance(self.value, bool) else "number"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A copy of a request that a shadow version answered, to nobody, beside the real answer."""

    experiment: str
    phase: int
    arm: str
    """Which arm gave the real answer."""
    unit: str
    """As in `Exposure`."""
    request_id: str
    """Of the real request, whose exposure may be there, too."""
    version: int
    """The shadow's."""
    at_s: float
    """When the copy was sent."""
    error: bool = False
    latency_ms: float | None = None
    """Of the whole answer; None where there was none."""
    output_tokens: int | None = None
    prompt: str | None = None
    """JSON of what was asked, in the words of `path`. With both answers where the experiment keeps
    answers and none was too long, else None."""
    answer: str | None = None
    """The real one's text."""
    shadow_answer: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an outcome. Whatever it says, it is durable."""

    outcome: Outcome
    """As it is kept; the first one, where it was repeated."""
    status: Literal["recorded", "late", "repeated"]
    """`late`: kept and not counted. `repeated`: the same was there under this key, and stands."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What of a metric is summed: its numbers, or how often something is the case.

    Booleans are 1 and 0. A metric of `IMPLICIT` is the server's, any other was posted.
    """

    metric: str
    above: float | None = None
    """Sum 1 for a number above it and 0 for others: what a quantile's limit needs."""
    label: str | None = None
    """Sum 1 for this label and 0 for others."""


@dataclass(frozen=True, slots=True)
class Units:
    """One row a unit and phase, in the order in which they were first exposed; (rows,) each.

    Shapes of the sums: (measures, rows), measures as they were asked for.
    """

    phase: NDArray[numpy.int64]
    arm: NDArray[numpy.str_]
    unit: NDArray[numpy.str_]
    probability: NDArray[numpy.float64]
    at_s: NDArray[numpy.float64]
    exposures: NDArray[numpy.int64]
    crossed: NDArray[numpy.bool_]
    """It was exposed to another arm in this phase, too: what came of that counts nowhere."""
    count: NDArray[numpy.int64]
    """0: the unit was exposed, and nothing was measured."""
    sum: NDArray[numpy.float64]
    squares: NDArray[numpy.float64]
    """Sum of squares."""
    source: NDArray[numpy.str_] = field(default_factory=lambda: numpy.empty(0, numpy.str_))
    """How the unit was known (`Exposure.source`)."""


class Store(Protocol):
    """Exposures and outcomes; any number of servers may write to one at once.

    Thread-safe. Methods block for as long as the database does: call them off the event loop.
    Each raises `Unavailable` where the database is gone, full or broken; nothing is acknowledged
    then, and whatever was acknowledged before is there as soon as the database is again.
    """

    def expose(self, exposures: Sequence[Exposure]) -> None:
        """Keep exposures, all or none; those that are there already (`id`) change nothing."""

    def record(self, outcomes: Sequence[Outcome]) -> list[Receipt | Conflict]:
        """Keep outcomes; durable on return. Answers in their order.

        Of several under one key of one request the first stands, here as between calls. A
        `Conflict` is in the place of an outcome whose key stands for another metric or value; the
        others are kept nevertheless. After `Unavailable` it is not known whether they are: send
        them again, under the same keys.

        Raises:
            UsageError: more than `MOST_OUTCOMES`.
        """

    def exposure(self, request_id: str) -> Exposure | None:
        """Return the latest exposure of a request, for outcomes that name it by its id alone."""

    def units(self, experiment: str, measures: Sequence[Measure] = ()) -> Units:
        """Sum what a report needs: measures by unit and phase, under the unit's first arm.

        The first exposure in a phase that reached the store is what counts, whatever clocks say.
        Outcomes that were late do not count, nor do those of units without an exposure in that
        phase: theirs was dropped, and keeping only units that answered would bias the rest.

        Raises:
            UsageError: a measure of a label without one, or of another metric with one.
        """

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """Yield all exposures of an experiment, in the order in which they were kept."""

    def outcomes(self, experiment: str) -> Iterator[Outcome]:
        """Yield all outcomes of an experiment, late ones too, batches in the order they came in."""

    def shadow(self, shadows: Sequence[Shadow]) -> None:
        """Keep what shadows answered, all or none; what is there already (`id`) stays."""

    def shadows(self, experiment: str) -> Iterator[Shadow]:
        """Yield all that shadows answered in an experiment, in the order in which it was kept."""

    def close(self) -> None:
        """Let go of the database. Nothing else may be called afterwards."""


def _check_text(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise UsageError(
            f"The {what} has {len(text):,} characters.", fix=f"{most:,} is the most: shorten it."
        )
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise UsageError(f"The {what} is no text.", fix="Leave NUL and half characters out.")


def _check_number(metric: str, value: float) -> None:
    """Refuse what no sum of squares could hold: PostgreSQL raises, over- or underflowing."""
    if value and not _SMALLEST <= abs(value) <= _LARGEST:  # NaN, too
        raise UsageError(
            f"{metric} is {str(value)[:40]}, which cannot be summed.",
            fix=f"Leave out what was not measured; {_SMALLEST:g} to {_LARGEST:g} is what fits.",
        )
