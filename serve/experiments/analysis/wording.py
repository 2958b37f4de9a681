"""How numbers of a report are written: shares in per cent, their differences in points."""

from __future__ import annotations

import math

from adapters.metrics import Kind

_SHARES = ("proportion", "preference")


def value(number: float | None, kind: Kind) -> str:
    """Return a metric's value; a dash for none."""
    if number is None:
        return "–"
    return f"{_hundredths(number)}%" if kind in _SHARES else _plain(number)


def difference(number: float | None, kind: Kind) -> str:
    """Return a difference with its sign."""
    if number is None:
        return "–"
    return f"{_hundredths(number, '+')} points" if kind in _SHARES else _plain(number, "+")


def interval(low: float | None, high: float | None, kind: Kind) -> str:
    """Return the ends of a difference; a dash where there are none yet."""
    if low is None or high is None:
        return "–"
    if kind in _SHARES:
        return f"{_hundredths(low, '+')} to {_hundredths(high, '+')}"
    return f"{_plain(low, '+')} to {_plain(high, '+')}"


def e_value(log_e: float) -> str:
    """Return E, of any size."""
    if log_e < math.log(0.001):
        return "< 0.001"
    if log_e < math.log(10_000):
        return f"{math.exp(log_e):,.3g}" if log_e < math.log(1_000) else f"{math.exp(log_e):,.0f}"
    return f"1e{log_e / math.log(10):.0f}" if log_e < math.inf else "∞"


def p(number: float) -> str:
    """Return a p-value; they are never 0."""
    return f"{number:.4f}" if number >= 0.0001 else "< 0.0001"


def _hundredths(share: float, sign: str = "-") -> str:
    """Return per cent: a digit more where there is less than one."""
    digits = 1 if abs(share) >= 0.01 or not share else 2
    return f"{100 * share:{sign}.{digits}f}"


def _plain(number: float, sign: str = "-") -> str:
    """Return four digits, or a whole number with all of its own."""
    form = ",.0f" if 1_000 <= abs(number) < 1e9 else ".4g"
    return f"{number:{sign}{form}}"
