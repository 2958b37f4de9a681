"""What a request may cost, told from its body alone."""

from __future__ import annotations

from typing import Any

import pytest

from serve.tenants.estimate import answer_tokens, prompt_tokens

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ({"prompt": "x" * 400}, 100),
        ({"prompt": "größe"}, 2),
        ({"prompt": [1, 2, 3], "max_tokens": 9, "seed": 7}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"prompt": "\ud83d"}, 1),
        ({"messages": [{"content": "x" * 40}] * 3}, 30),
        ({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64," + "A" * 9999}},
                                    {"text": "x" * 8}]}]}, 2),
        ({"model": "x" * 400, "cache_salt": "x" * 64, "prompt": "abcd"}, 1),
        ({"prompt": ""}, 0),
    ],
)  # fmt: skip
def test_a_prompt_is_estimated(content: dict[str, Any], tokens: int) -> None:
    assert prompt_tokens(content) == tokens


def test_depth_is_no_danger_to_the_estimate() -> None:
    deep: Any = "xxxx"
    for _ in range(100_000):
        deep = [deep]
    assert prompt_tokens({"prompt": deep}) == 1


@pytest.mark.parametrize(
    ("path", "content", "tokens"),
    [
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 5}, 5),
        (CHAT, {"max_tokens": 7, "n": 3}, 21),
        (CHAT, {}, 512),
        (CHAT, {"max_tokens": "many", "n": True}, 512),
        (CHAT, {"max_tokens": -5, "n": -1}, 512),
        ("/v1/responses", {"max_output_tokens": 9}, 9),
        ("/v1/messages", {"max_tokens": 9, "messages": [{}, {}]}, 9),
        (COMPLETIONS, {"max_tokens": 2, "prompt": ["a", "b"]}, 4),
        (COMPLETIONS, {"max_tokens": 2, "prompt": [[1, 2], [3]]}, 4),
        (COMPLETIONS, {"max_tokens": 2, "prompt": [1, 2, 3]}, 2),
        ("/v1/chat/completions/batch", {"max_tokens": 2, "messages": [[{}], [{}], [{}]]}, 6),
        ("/v1/embeddings", {"input": "x"}, 0),
    ],
)
def test_what_an_answer_may_take(path: str, content: dict[str, Any], tokens: int) -> None:
    assert answer_tokens(path, content) == tokens
