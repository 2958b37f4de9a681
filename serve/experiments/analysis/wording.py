"""How numbers of a report are written: shares in per cent, their differences in points."""

from __future__ import annotations

import math

from adapters.metrics import Kind

_SHARES = ("proportion", "preference")


def value(number: float | None, kind: Kind) -> str:
    """Return a metric's value; a dash for none."""
    if number is None:
        return "–"
    return f"{100 * number:.1f} %" if kind in _SHARES else f"{number:,.4g}"


def difference(number: float | None, kind: Kind) -> str:
    """Return a difference with its sign."""
    if number is None:
        return "–"
    return f"{100 * number:+.1f} points" if kind in _SHARES else f"{number:+,.4g}"


def interval(low: float | None, high: float | None, kind: Kind) -> str:
    """Return the ends of a difference; a dash where there are none yet."""
    if low is None or high is None:
        return "–"
    if kind in _SHARES:
        return f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{low:+,.4g} to {high:+,.4g}"


def e_value(log_e: float) -> str:
    """Return E, of any size."""
    if log_e < math.log(0.001):
        return "< 0.001"
    return f"{math.exp(log_e):,.3g}" if log_e < math.log(1e5) else f"1e{log_e / math.log(10):.0f}"


def p(number: float) -> str:
    """Return a p-value; they are never 0."""
    return f"{number:.4f}" if number >= 0.0001 else "< 0.0001"
