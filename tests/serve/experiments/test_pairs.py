"""What shadows answered, summed up and side by side."""

from __future__ import annotations

import json
from typing import Any

from adapters.experiments import Arm, Design, Phase
from serve.experiments.pairs import Beside, beside, pairs
from serve.experiments.store.base import Shadow
from tests.serve.experiments.store.rows import shadow

PHASE = Phase(
    "ab-1", 1, "running", "salt", (Arm("v1", 1, 0.5), Arm("base", None, 0.5)), "", "me",
    design=Design(shadow=3),
)  # fmt: skip


def pair(number: int, arm: str = "v1", **given: Any) -> Shadow:
    prompt = json.dumps({"path": "/v1/chat/completions", "messages": [{"n": number}]})
    texts = {"prompt": prompt, "answer": "real", "shadow_answer": "shadow"}
    return shadow(arm=arm, request_id=f"r-{number}", id=str(number), **{**texts, **given})


def test_each_arm_and_version_is_summed_up() -> None:
    some = [
        shadow(latency_ms=10.0, output_tokens=4),
        pair(1, latency_ms=30.0, output_tokens=8),
        shadow(error=True),
        shadow(arm="base", version=4, error=True),
    ]
    assert beside(some) == [
        Beside("base", 4, 1, 1, 0, None, None),
        Beside("v1", 3, 3, 1, 1, 20.0, 6.0),
    ]
    assert beside([]) == []


def test_a_pair_holds_what_was_asked_and_both_answers() -> None:
    some = [shadow(), pair(7), pair(8, "base"), pair(9, shadow_answer=None)]
    first, second = pairs(some, PHASE, lambda number: f"support@v{number}+d")
    assert (first["request_id"], first["messages"]) == ("r-7", [{"n": 7}])
    told = {each["model"]: each["text"] for each in first["answers"]}
    assert told == {"support@v1+d": "real", "support@v3+d": "shadow"}
    assert {each["model"] for each in second["answers"]} == {"base", "support@v3+d"}


def test_neither_side_is_always_first() -> None:
    found = list(pairs([pair(n) for n in range(64)], PHASE, str))
    first = [each["answers"][0]["text"] for each in found]
    assert 16 < first.count("real") < 48
    assert found == list(pairs([pair(n) for n in range(64)], PHASE, str)), "the same each time"
