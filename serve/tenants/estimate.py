"""How many tokens a request may take, told from its body before anything is computed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_BYTES_A_TOKEN = 4
_UNSAID_TOKENS = 512
"""For an answer whose length the client leaves to the model."""
_FREE = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
_BATCH = "/v1/chat/completions/batch"
_COMPLETIONS = "/v1/completions"
_ANSWERING = frozenset(
    {"/v1/chat/completions", _BATCH, _COMPLETIONS, "/v1/responses", "/v1/messages"}
)
_LENGTHS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_NOT_READ = frozenset({"model", "cache_salt", "request_id"})


def costs(path: str) -> bool:
    """Say whether a path's answers take tokens of a model at all."""
    return path not in _FREE


def prompt_tokens(content: Mapping[str, Any]) -> int:
    """Return what a body's texts come to: a token for each four bytes, none for pictures."""
    size, left = 0, [value for key, value in content.items() if key not in _NOT_READ]
    while left:
        value = left.pop()
        if isinstance(value, str):
            if not value.startswith("data:"):  # a picture's bytes are no text
                size += len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list) and value and type(value[0]) is int:
            size += len(value) * _BYTES_A_TOKEN  # a prompt in token ids
        elif isinstance(value, list):
            left += value
    return math.ceil(size / _BYTES_A_TOKEN)


def answer_tokens(path: str, content: Mapping[str, Any]) -> int:
    """Return how many tokens a request may have the model write."""
    if path not in _ANSWERING:
        return 0
    said = [count for key in _LENGTHS if (count := _count(content.get(key)))]
    prompts = content.get({_COMPLETIONS: "prompt", _BATCH: "messages"}.get(path, ""))
    many = isinstance(prompts, list) and prompts and isinstance(prompts[0], str | list)
    times = len(prompts) if many and prompts else 1
    return (said[0] if said else _UNSAID_TOKENS) * (_count(content.get("n")) or 1) * times


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
