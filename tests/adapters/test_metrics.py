"""Metrics as people write them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import UsageError
from adapters.metrics import Metric, Role, check_metrics

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "role", "means"),
    [
        ("solved", "primary", {}),
        ("solved:effect=0.03", "primary", {"effect": 0.03}),
        ("solved:decrease:effect=3%", "primary", {"effect": 0.03, "direction": "decrease"}),
        ("rating:mean", "secondary", {"kind": "mean"}),
        ("cost/solved:decrease", "primary",
         {"kind": "ratio", "denominator": "solved", "direction": "decrease"}),
        ("finish_reason=length:decrease", "secondary",
         {"label": "length", "direction": "decrease"}),
        ("latency_ms>800", "secondary", {"above": 800, "direction": "decrease"}),
        ("latency_ms:mean", "secondary", {"kind": "mean", "direction": "decrease"}),
        ("error<=5%", "guardrail", {"limit": 0.05, "direction": "decrease"}),
        ("latency_ms>800 <= 0.05", "guardrail",
         {"above": 800, "limit": 0.05, "direction": "decrease"}),
        ("finish_reason=length<=10%", "guardrail",
         {"label": "length", "limit": 0.1, "direction": "decrease"}),
        ("rating:mean:margin=0.1", "guardrail", {"kind": "mean", "margin": 0.1}),
        ("preferred:preference", "primary", {"kind": "preference"}),
        ("solved:covariate=prior_solved", "primary", {"covariate": "prior_solved"}),
        ("rating:mean:covariate=prior:margin=0.1", "guardrail",
         {"kind": "mean", "covariate": "prior", "margin": 0.1}),
    ],
)  # fmt: skip
def test_what_is_written_and_what_it_means(text: str, role: Role, means: dict[str, Any]) -> None:
    found = Metric.parse(text, role)
    assert found == replace(Metric(found.name, role), **means)


@pytest.mark.parametrize(
    ("text", "role", "why"),
    [
        ("", "primary", "not written"),
        ("Solved", "primary", "a name is of"),
        ("solved rate", "primary", "not written"),
        ("solved:median", "primary", "is no option"),
        ("solved:effect=much", "primary", "is no number"),
        ("solved:effect=0", "primary", "not above 0"),
        ("solved:effect=nan", "primary", "not finite"),
        ("solved:effect=inf", "primary", "not finite"),
        ("cost/", "primary", "not written"),
        ("cost/solved:mean", "primary", "is no option"),
        ("cost:ratio", "primary", "denominator"),
        ("rating:mean<=5%", "guardrail", "no option"),
        ("rating>3:mean", "secondary", "counted, as a proportion"),
        ("error<=5%", "secondary", "a guardrail has a limit"),
        ("error", "guardrail", "a guardrail has a limit"),
        ("error<=5", "guardrail", "between 0 and 1"),
        ("error<=0%", "guardrail", "between 0 and 1"),
        ("error<=5%:margin=0.1", "guardrail", "choose one"),
        ("rating:mean:margin=-1", "guardrail", "below 0"),
        ("latency_ms>soon<=5%", "guardrail", "is no number"),
        ("finish_reason", "secondary", "write finish_reason=length"),
        ("finish_reason:mean", "secondary", "write finish_reason=length"),
        ("cost/finish_reason", "secondary", "write finish_reason=length"),
        ("error=true", "secondary", "no words to count"),
        ("error:preference", "primary", "no words to count"),
        ("latency_ms", "primary", "write latency_ms:mean, or latency_ms>800"),
        ("latency_ms<=5%", "guardrail", "write latency_ms:mean, or latency_ms>800"),
        ("solved:covariate", "primary", "a name is of"),
        ("solved:covariate=Prior", "primary", "a name is of"),
        ("solved:covariate=solved", "primary", "not before it"),
        ("solved:covariate=latency_ms", "primary", "not before it"),
        ("cost/solved:covariate=prior", "primary", "a ratio has no covariate"),
        ("preferred:preference:covariate=prior", "primary", "a preference has no covariate"),
        ("error<=5%:covariate=prior", "guardrail", "a limit compares with nothing"),
    ],
)
def test_what_is_no_metric_is_told_why(text: str, role: Role, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Metric.parse(text, role)


@given(st.text(max_size=60), st.sampled_from(["primary", "secondary", "guardrail"]))
def test_any_text_is_a_metric_or_a_clear_refusal(text: str, role: Role) -> None:
    with suppress(UsageError):  # and no other
        assert Metric.parse(text, role).role == role


@given(names, names, st.floats(0, 1e6))
def test_its_title_is_read_back_as_the_same_question(name: str, other: str, above: float) -> None:
    for text in (name, f"{name}/{other}", f"{name}={other}", f"{name}>{above:g}"):
        found = Metric.parse(text, "secondary")
        assert Metric.parse(found.title, "secondary") == found


def test_one_metric_decides_and_each_is_there_once() -> None:
    one, other = Metric.parse("solved", "primary"), Metric.parse("rating:mean", "primary")
    check_metrics([one, Metric.parse("rating:mean", "secondary")])
    check_metrics([one, Metric.parse("solved:margin=0.1", "guardrail")])
    with pytest.raises(UsageError, match="both primary"):
        check_metrics([one, other])
    with pytest.raises(UsageError, match="there twice"):
        check_metrics([one, Metric.parse("solved", "secondary")])
    with pytest.raises(UsageError, match="there twice"):
        check_metrics([Metric.parse(f"error<={n}%", "guardrail") for n in (1, 5)])
