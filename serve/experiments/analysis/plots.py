"""A report's plots as SVG: how the difference narrowed, how evidence grew. Pure; no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from adapters.metrics import Kind
from serve.experiments.analysis import wording
from serve.experiments.analysis.report import Look, Report
from serve.experiments.statistics.multiplicity import threshold

_WIDTH, _HEIGHT = 640.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 8.0, 8.0, 34.0
_COLOURS = 6
"""of arms; a seventh has the first one's"""
_LN10 = math.log(10)
Scale = Callable[[float], float]


def plots(report: Report) -> tuple[tuple[str, str], ...]:
    """Return what each plot shows, and its `<svg>`; none before there is something to see."""
    metric = report.design.primary
    arms = [side.arm for side in report.sides[1:]]
    by_arm = {arm: [look for look in report.looks if look.arm == arm] for arm in arms}
    if metric is None or not any(len(looks) > 1 for looks in by_arm.values()):
        return ()
    needed = threshold(report.design.alpha, len(arms))
    shown = f"{metric.title}, less {report.control.arm}: interval by units of all arms"
    grown = "Evidence E by units of all arms; p is 1/E"
    return (
        (shown, _differences(by_arm, metric.kind, shown)),
        (grown, _evidence(by_arm, needed, grown)),
    )


def _differences(by_arm: dict[str, list[Look]], kind: Kind, said: str) -> str:
    least, most = _reach(by_arm)
    x, y = _across(by_arm), _up(least, most)
    parts = [_grid(y, _ticks(least, most), lambda at: _tick(at, kind)), _level(y(0.0), "zero")]
    for place, looks in enumerate(by_arm.values()):
        told = [(x(look.units), look.low, look.high) for look in looks]
        ends = [(at, low, high) for at, low, high in told if low is not None and high is not None]
        band = [(at, y(high)) for at, _, high in ends]
        band += [(at, y(low)) for at, low, _ in reversed(ends)]
        line = [(x(look.units), y(look.value)) for look in looks if look.value is not None]
        colour = f"c{place % _COLOURS}"
        parts.append(f'<polygon class="band {colour}" points="{_points(band)}"/>')
        parts.append(f'<polyline class="line {colour}" points="{_points(line)}"/>')
    return _svg(said, parts, by_arm)


def _evidence(by_arm: dict[str, list[Look]], needed: float, said: str) -> str:
    seen = [look.log_e for looks in by_arm.values() for look in looks]
    most = min(300.0, max(needed, *seen) / _LN10 * 1.05)
    least = max(-4.0, min(0.0, *seen) / _LN10)
    x, y = _across(by_arm), _up(least, most)
    decides = y(needed / _LN10)
    parts = [
        _grid(y, _whole(least, most), _power),
        _level(decides, "needed"),
        f'<text x="{_LEFT + 6}" y="{decides + 14:.1f}">{math.exp(needed):,.0f} decides</text>',
    ]
    for place, looks in enumerate(by_arm.values()):
        path = _points([(x(look.units), y(look.log_e / _LN10)) for look in looks])
        parts.append(f'<polyline class="line c{place % _COLOURS}" points="{path}"/>')
    return _svg(said, parts, by_arm)


def _reach(by_arm: dict[str, list[Look]]) -> tuple[float, float]:
    """Return the ends of the axis: the later half in full; the first intervals are cut off."""
    seen = [0.0]
    for looks in by_arm.values():
        for look in looks[len(looks) // 2 :]:
            seen += [end for end in (look.low, look.value, look.high) if end is not None]
    least, most = min(seen), max(seen)
    margin = 0.1 * (most - least) or 1.0
    return least - margin, most + margin


def _across(by_arm: dict[str, list[Look]]) -> Scale:
    most = max(look.units for looks in by_arm.values() for look in looks)
    return lambda units: _LEFT + (_WIDTH - _LEFT - _RIGHT) * units / max(most, 1)


def _up(least: float, most: float) -> Scale:
    """Return a scale that holds what is far out near the frame: a float's end is no coordinate."""
    height = _HEIGHT - _TOP - _BOTTOM

    def at(value: float) -> float:
        share = (value - least) / (most - least)
        return _TOP + height * (1 - min(max(share, -2.0), 3.0))

    return at


def _ticks(least: float, most: float) -> list[float]:
    """Return some three to six round numbers between the ends."""
    rough = (most - least) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * by for by in (1, 2, 5, 10) if size * by >= rough)
    first = math.ceil(least / step)
    return [each * step for each in range(first, math.floor(most / step) + 1)]


def _whole(least: float, most: float) -> list[float]:
    """Return the ticks that are whole numbers."""
    return [at for at in _ticks(least, most) if math.isclose(at, round(at))]


def _tick(value: float, kind: Kind) -> str:
    return wording.difference(value, kind) if value else "0"


def _power(exponent: float) -> str:
    return f"{10**exponent:g}" if abs(exponent) < 4 else f"1e{exponent:.0f}"


def _grid(y: Scale, ticks: Sequence[float], said: Callable[[float], str]) -> str:
    return "".join(
        _level(y(at), "grid")
        + f'<text x="{_LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{escape(said(at))}</text>'
        for at in ticks
    )


def _level(at: float, name: str) -> str:
    return f'<line class="{name}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'


def _points(path: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in path)


def _svg(said: str, parts: Sequence[str], by_arm: dict[str, list[Look]]) -> str:
    """Return the frame around what was drawn, cut at its edges; units along the bottom."""
    most = max(look.units for looks in by_arm.values() for look in looks)
    x = _across(by_arm)
    along = "".join(
        f'<text x="{x(at):.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{at:,.0f}</text>'
        for at in _whole(0, most)
        if at <= 0.95 * most
    )
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    grid, *drawn = parts
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(said)}">'
        f"{grid}{along}"
        f'<svg x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}"'
        f' viewBox="{_LEFT} {_TOP} {width} {height}">{"".join(drawn)}</svg></svg>'
    )
