"""Two minutes of everything at once, on a server with few places of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loadtests.stress.run import Settings, run


@pytest.mark.timeout(420)
def test_two_minutes_of_everything_at_once_harm_nobody(tmp_path: Path) -> None:
    report = run(Settings(minutes=2, seed=0), tmp_path, progress=sys.stderr)
    assert report.violations == []
    assert report.answers_checked > 200
    told_apart, of = report.told_apart
    assert told_apart > 0.9 * of > 90, "references that take any answer would prove nothing"
    counts = report.counts
    for happened in (
        *("publish", "promote", "retire", "delete"),
        *("clients that left in a hurry", "clients that left in a stream"),
    ):
        assert counts.get(f"operator: {happened}: done", 0) + counts.get(happened, 0), happened
    assert any(what.startswith("vandal: damage") for what in counts)
    assert any(what.endswith(": refused") for what in counts)
