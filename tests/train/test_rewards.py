"""Rewards: what each built-in gives, somebody's own function, and what stops a run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import Rejected, UsageError
from train.recipe import Recipe
from train.rewards import Reward, load_rewards, sources

PROMPTS = [[{"role": "user", "content": f"question {n}"}] for n in range(3)]


def rewards(*specs: str, **more: Any) -> list[Reward]:
    return load_rewards(Recipe(method="grpo", reward=specs, **more))


def given(spec: str, texts: list[str], **columns: Any) -> list[float]:
    """Return what a reward gives to answers, called as TRL calls it; a token is a letter."""
    answers = [[{"role": "assistant", "content": text}] for text in texts]
    ids = [[7] * len(text) for text in texts]
    rows = [{name: values[n] for name, values in columns.items()} for n in range(len(texts))]
    answer = columns.get("answer", [None] * len(texts))
    (reward,) = rewards(spec)
    return reward(
        PROMPTS[: len(texts)], answers, ids, answer=answer, columns=rows, length=[1] * len(texts),
        trainer_state=None, log_extra=None, log_metric=None,
    )  # fmt: skip


def test_exact_match_but_for_space_at_the_ends() -> None:
    assert given("exact_match", ["4", " 4\n", "44"], answer=["4"] * 3) == [1, 1, 0]


def test_a_pattern_is_searched_for_as_it_stands() -> None:
    assert given("regex:^[0-9]{1,2}$", ["12", "123", "x12"]) == [1, 0, 0]
    assert given("regex:a:b", ["xa:bx", "ab"]) == [1, 0]


def test_json_that_a_schema_takes(tmp_path: Path) -> None:
    schema = tmp_path / "answer.json"
    schema.write_text('{"type": "object", "required": ["intent"]}')
    texts = ['{"intent": "refund"}', "{}", "no JSON"]
    assert given(f"json_schema:{schema}", texts) == [1, 0, 0]
    recipe = Recipe(method="rloo", reward=(f"json_schema:{schema}",))
    digest = hashlib.sha256(schema.read_bytes()).hexdigest()
    assert sources(recipe) == {"answer.json": f"sha256:{digest}"}


def test_length_gives_less_the_further_it_is_from_the_range() -> None:
    assert given("length:2-4", ["aa", "aaaa", "a"]) == [1, 1, 0.5]
    assert given("length:2-4", ["aaaaaaaa", ""]) == [0.5, 0]
    assert given("length:0-4", ["", "aa"]) == [1, 1]


OWN = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Weight:
    value: float

def likes(completions, weight, **others):
    assert {"prompts", "completion_ids", "answer"} <= others.keys()
    return [w * len(c[-1]["content"]) for c, w in zip(completions, weight)]

def few(completion_ids):
    return [1 for _ in completion_ids]

def fails(prompts):
    raise KeyError("gone")

def short(completions):
    return [1.0]

def nothing(completions):
    return [1.0, None]

def infinite(completions):
    return [1.0, float("nan")]

async def later(completions):
    return []
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def test_somebodys_own_function_gets_the_columns_that_it_names(own: Path) -> None:
    assert given(f"{own}:likes", ["ab", "a"], weight=[2, 3]) == [4, 3]
    assert given(f"{own}:few", ["ab", "a"], weight=[2, 3]) == [1, 1]
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    recipe = Recipe(method="grpo", reward=(f"{own}:few", f"{own}:likes", "regex:a"))
    assert sources(recipe) == {"mine.py": f"sha256:{digest}"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", r"mine\.py:fails raised KeyError: 'gone'; the prompt: 'question 0'"),
        ("short", r"short returned 1 rewards of 2 answers; the prompt: 'question 0'"),
        ("nothing", r"nothing returned None, not a finite number; the prompt: 'question 1'"),
        ("infinite", r"infinite returned nan, not a finite number; the prompt: 'question 1'"),
    ],
)
def test_a_function_that_goes_wrong_stops_with_its_name_and_a_prompt(
    own: Path, name: str, said: str
) -> None:
    with pytest.raises(Rejected, match=said):
        given(f"{own}:{name}", ["a", "b"])


def test_exact_match_of_a_row_without_an_answer_is_no_reward() -> None:
    with pytest.raises(Rejected, match="no answer"):
        given("exact_match", ["a"])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("exact_mach", "exact_match"),
        ("exact_match:x", "no argument"),
        ("regex:[", "unterminated"),
        ("json_schema:none.json", "No such file"),
        ("length:9-1", "length:10-40"),
        ("length:some", "length:10-40"),
        ("none.py:f", "FILE.py:FUNCTION"),
        ("mine.py", "FILE.py:FUNCTION"),
        ("mine.py:like", "likes"),
        ("mine.py:later", "coroutine"),
    ],
)
def test_what_is_no_reward_is_refused_before_the_run(
    own: Path, monkeypatch: pytest.MonkeyPatch, spec: str, said: str
) -> None:
    monkeypatch.chdir(own.parent)
    with pytest.raises(UsageError) as refused:
        rewards(spec)
    assert said in str(refused.value)


def test_rewards_and_weights_go_together() -> None:
    with pytest.raises(UsageError, match="needs a reward"):
        rewards()
    with pytest.raises(UsageError, match="2 rewards have 1 weights"):
        rewards("exact_match", "length:1-2", reward_weights=(1.0,))
    assert load_rewards(Recipe()) == []


def test_metrics_tell_two_of_a_kind_apart() -> None:
    assert [reward.name for reward in rewards("regex:a", "regex:b")] == ["regex", "regex_2"]
