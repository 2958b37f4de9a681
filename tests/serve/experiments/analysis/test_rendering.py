"""What people see: the same numbers in the terminal and on the page, whatever they are."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy
import pytest

from adapters.experiments import Design
from serve.experiments.analysis import wording
from serve.experiments.analysis.page import page
from serve.experiments.analysis.report import Report
from serve.experiments.analysis.tables import tables
from serve.experiments.analysis.text import text
from serve.experiments.store.base import Measure
from tests.serve.experiments.analysis.traffic import SOLVED, Traffic, design, phase, report


class Cells(HTMLParser):
    """The text of each table cell, and every tag with its attributes."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.open, f"</{tag}> closes nothing"
        while self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def found() -> Report:
    """Three arms after a ramp, of which v3 is worse and fails."""
    chance = numpy.random.default_rng(1)
    number = numpy.repeat([1, 2], 3_000)
    place = chance.random(6_000)
    at = numpy.where(number == 1, 0.8, 1 / 3)
    arm = (place > at).astype(int) + (place > (1 + at) / 2)
    outcomes = {
        SOLVED: chance.random(6_000) < numpy.array([0.3, 0.36, 0.2])[arm],
        Measure("stars"): numpy.where(place > 0.7, chance.integers(1, 6, 6_000), numpy.nan),
        Measure("latency_ms"): chance.lognormal(6, 0.5, 6_000),
        Measure("error"): chance.random(6_000) < numpy.array([0.01, 0.01, 0.12])[arm],
    }
    plan = design("solved:effect=0.02", "stars:mean", guardrails=["error<=5%", "solved:margin=0.1"])
    return report(
        Traffic(number, arm, outcomes=outcomes, source="request"),
        phase(1, (0.8, 0.1, 0.1), plan),
        phase(2, (1 / 3, 1 / 3, 1 / 3), plan),
    )


def test_the_terminal_says_what_to_do_then_all_numbers(found: Report) -> None:
    said = text(found)
    lines = said.splitlines()
    assert lines[0] == "support · ab-1 · phase 2, running · 2033-05-18 03:33:20 UTC"
    assert lines[2] == found.verdict.said
    assert "v3 broke the guardrail error" in lines[2]
    assert re.search(r"^solved +v2 .*propensities$", said, re.MULTILINE)
    assert re.search(r"^error +v3 +1\d\.\d% +5\.0% .* broken$", said, re.MULTILINE)
    assert re.search(r"^latency_ms +implicit ", said, re.MULTILINE)
    assert "6,000 units were single requests" in said
    assert "nan" not in said
    assert "None" not in said


def test_the_page_has_the_same_cells(found: Report) -> None:
    shown = Cells(page(found))
    told = [
        cell or ("–" if cell is None else "")
        for each in tables(found)
        for row in (each.headers, *each.rows)
        for cell in row
    ]
    assert shown.cells == told
    for cell in told:
        assert cell in text(found)


def test_the_page_stands_alone(found: Report) -> None:
    document = page(found)
    shown = Cells(document)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {
        tag for tag, _ in shown.tags
    }
    for _, attributes in shown.tags:
        assert not {"src", "href", "onload", "xlink:href", "action"} & attributes.keys()
    assert "url(" not in document
    assert "@import" not in document
    assert "prefers-color-scheme: dark" in document
    assert "default-src 'none'" in document


def test_plots_are_drawn_inside_their_frame(found: Report) -> None:
    drawn = [
        ElementTree.fromstring(svg)
        for svg in re.findall(r"<svg viewBox.*?</svg></svg>", page(found), re.DOTALL)
    ]
    assert len(drawn) == 2
    for svg in drawn:
        assert svg.get("aria-label")
        labels = [each.text for each in svg.iter("text")]
        assert len(labels) >= 5
        lines = [each for each in svg.iter() if each.tag in ("polyline", "polygon")]
        assert len(lines) in (2, 4)
        for line in lines:
            points = [[float(c) for c in at.split(",")] for at in line.get("points", "").split()]
            assert len(points) > 30
            assert all(0 <= x <= 640 and abs(y) < 1000 for x, y in points)
    levels = [[each.get("class") for each in svg.iter("line")] for svg in drawn]
    assert "zero" in levels[0]
    assert "needed" in levels[1]


def test_of_the_exact_method_of_rates_the_note_says_whose_the_interval_is() -> None:
    """Six pairs of opposites: E has decided, and the interval still holds 0."""
    arm = numpy.tile([0, 1], 6)
    shown = {
        written: report(
            Traffic(1, arm, outcomes={SOLVED: arm}),
            phase(design=design(written, method="exact")),
        )
        for written in ("solved", "solved:mean")
    }
    (rates,) = shown["solved"].comparisons
    assert rates.decided == "better"
    assert rates.low is not None
    assert rates.low < 0
    note = "E of blocks decides; the interval, by betting (bounded), may leave 0 later or sooner."
    assert note in text(shown["solved"])
    assert note in page(shown["solved"])
    assert note not in text(shown["solved:mean"])


def test_before_there_is_anything_there_are_dashes_and_no_plots() -> None:
    for plan in (Design(), design("solved", guardrails=["error<=5%"])):
        empty = report(Traffic(1, []), phase(design=plan))
        assert "<svg" not in page(empty)
        assert " – " in text(empty)
        assert "nan" not in text(empty)


def test_what_others_named_is_text(found: Report) -> None:
    evil = '<script>alert("1")</script>&amp;'
    renamed = replace(
        found,
        adapter=evil,
        verdict=replace(found.verdict, said=evil),
        comparisons=tuple(replace(each, title=evil, arm=evil) for each in found.comparisons),
        sides=tuple(replace(each, arm=f"{evil}{n}") for n, each in enumerate(found.sides)),
    )
    document = page(renamed)
    assert "<script" not in document
    assert document.count("&lt;script&gt;") > 10
    assert evil in Cells(document).cells


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (0.1234, "proportion", "12.3%"),
        (0.00234, "proportion", "0.23%"),
        (0.0, "proportion", "0.0%"),
        (12345.6, "mean", "12,346"),
        (1e100, "mean", "1e+100"),
        (0.012345, "ratio", "0.01235"),
        (None, "mean", "–"),
    ],
)
def test_a_value(number: float | None, kind: str, said: str) -> None:
    assert wording.value(number, kind) == said  # type: ignore[arg-type]


def test_evidence_of_any_size() -> None:
    sizes = [-numpy.inf, -1.0, 0.0, 3.0, 9.0, 1000.0, numpy.inf]
    said = [wording.e_value(float(size)) for size in sizes]
    assert said == ["< 0.001", "0.368", "1", "20.1", "8,103", "1e434", "∞"]
    assert wording.p(0.0) == "< 0.0001"
    assert wording.p(0.5) == "0.5000"
