"""Reward functions of the tests, as a user would write them."""

from __future__ import annotations

from typing import Any


def letters(completions: list[Any], **columns: Any) -> list[float]:
    """Return a number by each answer's letters, so that answers to one prompt differ."""
    return [float(sum(map(ord, turns[-1]["content"])) % 7) for turns in completions]


def mostly_prompt(less: list[int], completions: list[Any], **columns: Any) -> list[float]:
    """Return the same, and 100 times a number of the prompt's: a step's mean tells its prompts."""
    return [100 * n + own for n, own in zip(less, letters(completions), strict=True)]
