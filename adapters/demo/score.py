"""Send held-out questions to a server through the genuine `openai` client, and keep score.

Knows HTTP and time, not how the server came to be nor what is asked.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, cast

from adapters.intervals import wilson

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_MAX_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Question:
    """A chat that waits for the assistant, and the only right answer to it."""

    messages: Sequence[Mapping[str, str]]
    answer: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question."""

    model: str
    """What was asked for."""
    served: str
    """The `x-adapter` header: which version answered."""
    text: str
    right: bool
    valid_json: bool
    ttft_ms: float
    """From sending the request to the first token."""
    tokens_per_s: float
    """Of this one stream, after its first token."""
    assignment: str = ""
    """The `x-assignment` header: what an outcome is posted with, within an experiment."""


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the table."""

    model: str
    requests: int
    exact_match: float
    interval: tuple[float, float]
    valid_json: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    tokens_per_s: float
    """Of the median stream."""


async def ask(client: AsyncOpenAI, model: str, question: Question, user: str) -> Answer:
    """Stream one answer; it is right if it is the expected one but for white space round it.

    Raises:
        openai.APIError: the server refused or failed.
    """
    began = time.perf_counter()
    raw = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=cast(Any, question.messages),  # plain dicts, as JSON has them
        max_tokens=_MAX_TOKENS,
        temperature=0,
        user=user,
        stream=True,
        stream_options={"include_usage": True},
        # Bases that think aloud by default (Qwen3) are asked for the answer alone.
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    pieces, first, tokens = [], None, 0
    async for chunk in raw.parse():
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter()
            pieces.append(chunk.choices[0].delta.content)
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    ended = time.perf_counter()
    first = first or ended
    text = "".join(pieces)
    return Answer(
        model=model,
        served=raw.headers.get("x-adapter", "?"),
        text=text,
        right=text.strip() == question.answer.strip(),
        valid_json=_is_json(text),
        ttft_ms=(first - began) * 1000,
        tokens_per_s=(tokens - 1) / (ended - first) if tokens > 1 and ended > first else math.nan,
        assignment=raw.headers.get("x-assignment", ""),
    )


async def tell(client: AsyncOpenAI, answer: Answer) -> None:
    """Post back whether an answer within an experiment was right.

    Raises:
        openai.APIError: the server refused or failed.
    """
    said = {"metric": "solved", "value": answer.right, "token": answer.assignment}
    await client.post("/feedback", body=said, cast_to=object)


async def ask_all(
    client: AsyncOpenAI,
    models: Sequence[str],
    test: Sequence[Question],
    *,
    concurrency: int = 16,
    answered: Callable[[], object] = lambda: None,
) -> list[Answer]:
    """Send every question to every model, shuffled together, `concurrency` at a time."""
    work = [(model, number) for model in models for number in range(len(test))]
    random.Random(0).shuffle(work)
    gate = asyncio.Semaphore(concurrency)

    async def one(model: str, number: int) -> Answer:
        async with gate:
            answer = await ask(client, model, test[number], user=f"customer-{number}")
        answered()
        return answer

    return list(await asyncio.gather(*(one(model, number) for model, number in work)))


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def score(model: str, answers: Sequence[Answer]) -> Score:
    """Summarise the answers of one model; at least one."""
    right = sum(answer.right for answer in answers)
    times = [answer.ttft_ms for answer in answers]
    percentiles = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
    speeds = [a.tokens_per_s for a in answers if not math.isnan(a.tokens_per_s)]
    return Score(
        model=model,
        requests=len(answers),
        exact_match=right / len(answers),
        interval=wilson(right, len(answers)),
        valid_json=sum(answer.valid_json for answer in answers) / len(answers),
        ttft_p50_ms=percentiles[9],
        ttft_p95_ms=percentiles[18],
        tokens_per_s=median(speeds) if speeds else math.nan,
    )
