"""The demonstration's parts: its task, its score, and the server it starts and always ends."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.demo.score import Answer, score
from adapters.demo.server import served
from adapters.demo.task import examples, split
from adapters.errors import Unavailable
from adapters.intervals import wilson
from adapters.keys import KeyJournal


def test_training_and_test_set_share_no_message_and_are_the_same_everywhere() -> None:
    train, test = split(400, 100)
    assert (train, test) == split(400, 100)
    assert not {e.message for e in train} & {e.message for e in test}
    assert [e.message for e in examples(3, seed=0)] == [e.message for e in train[:3]]


def test_every_queue_and_priority_occurs_about_equally_often() -> None:
    answers = [json.loads(example.answer) for example in split(1500, 0)[0]]
    for key, kinds in (("queue", 6), ("priority", 3)):
        counts = [[a[key] for a in answers].count(kind) for kind in {a[key] for a in answers}]
        assert len(counts) == kinds
        assert min(counts) > 0.6 * len(answers) / kinds


def test_a_trained_row_ends_in_what_the_question_expects() -> None:
    (example,) = examples(1, seed=3)
    *asked, answered = example.row()["messages"]  # type: ignore[misc]
    assert asked == example.question().messages
    assert answered["content"] == example.question().answer


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (200, 200, 0.9812, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    """Values of `statsmodels.stats.proportion.proportion_confint(method='wilson')`."""
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_proportion(drawn: tuple[int, int]) -> None:
    successes, trials = drawn
    low, high = wilson(successes, trials)
    rounding = 1e-12
    assert 0 <= low <= successes / trials + rounding
    assert successes / trials - rounding <= high <= 1


def test_a_score_counts_right_and_valid_answers() -> None:
    answers = [
        Answer("m", "m", "{}", right, valid, ttft_ms=ms, tokens_per_s=speed)
        for right, valid, ms, speed in [
            (True, True, 10, 5.0),
            (False, True, 20, math.nan),
            (False, False, 30, 7.0),
            (False, False, 40, 600.0),
        ]
    ]
    scored = score("m", answers)
    assert (scored.exact_match, scored.valid_json) == (0.25, 0.5)
    assert scored.ttft_p50_ms == 25
    assert scored.tokens_per_s == 7.0


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    arguments = ["--base", str(tmp_path / "nowhere"), "--registry", str(tmp_path)]
    with pytest.raises(Unavailable, match="nowhere") as failed, served(arguments, log):
        raise AssertionError("it cannot have started")
    assert str(log) in failed.value.fix


def test_a_server_of_the_demos_own_asks_for_none_of_the_persons_keys(tmp_path: Path) -> None:
    journal = KeyJournal()
    journal.create("web", allow=["*"])
    journal.path.write_text("{\n")  # a server that reads it ends with that
    arguments = ["--base", str(tmp_path / "nowhere"), "--registry", str(tmp_path)]
    with pytest.raises(Unavailable, match="nowhere"), served(arguments, tmp_path / "log"):
        raise AssertionError("it cannot have started")


def test_a_port_in_use_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["--base", "tiny", "--registry", str(tmp_path), "--port", port]
        with (
            pytest.raises(Unavailable, match="--port"),
            served(arguments, tmp_path / "log", timeout_s=60),
        ):
            raise AssertionError("it cannot have started")
