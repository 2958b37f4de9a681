"""A closed loop of requests against one server: so many in flight, each for an adapter drawn anew.

One asyncio client on one connection a request in flight. Locust's users, each with its own OpenAI
client, take a core for themselves, which on a small machine is one of the server's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

_PROMPTS = (
    "What is the capital of France?",
    "The kettle does not turn on, please help.",
    "Name three birds.",
    "I was charged twice for my gym membership.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. Times in seconds of `time.perf_counter`."""

    model: str
    asked: float
    first: float | None
    """When the first token came; None: none had when the run ended."""
    tokens: int
    """Within the run."""
    status: int


def zipf(count: int, exponent: float) -> list[float]:
    """Return the weight of each rank; exponent 0 is uniform."""
    return [1 / rank**exponent for rank in range(1, count + 1)]


async def closed_loop(
    url: str,
    models: Sequence[str],
    weights: Sequence[float],
    *,
    in_flight: int,
    warm_s: float,
    run_s: float,
    tokens: int,
    seed: int = 0,
) -> tuple[list[Answer], float]:
    """Return the answers that tokens or the end of the run fell into, and tokens a second.

    Streams, so that a first token is seen when it comes; each is counted when it comes, so neither
    what was asked before the run nor what ends after it is counted in full.
    """
    chance, answers = random.Random(seed), []
    begins = time.perf_counter() + warm_s
    ends = begins + run_s

    async def ask(client: aiohttp.ClientSession, model: str) -> None:
        asked, first, seen, status = time.perf_counter(), None, 0, 0
        content = {
            "model": model, "prompt": chance.choice(_PROMPTS), "max_tokens": tokens,
            "temperature": 0, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        try:
            async with client.post(f"{url}/v1/completions", json=content) as reply:
                status = reply.status
                async for line in reply.content:
                    if line.startswith(b"data: {"):
                        now = time.perf_counter()
                        first = first or now
                        seen += begins <= now <= ends
        finally:
            answers.append(Answer(model, asked, first, seen, status))

    async def user(client: aiohttp.ClientSession) -> None:
        while True:
            await ask(client, *chance.choices(models, weights))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout()
    ) as client:
        users = [asyncio.create_task(user(client)) for _ in range(in_flight)]
        await asyncio.sleep(ends - time.perf_counter())
        failed = [task for task in users if task.done()]
        for task in users:
            task.cancel()
        await asyncio.gather(*users, return_exceptions=True)
    if failed:
        failed[0].result()
    refused = [answer for answer in answers if answer.status not in (0, 200)]
    if refused:
        raise SystemExit(f"{len(refused)} requests failed, the first with {refused[0].status}")
    counted = [a for a in answers if (a.first or ends) >= begins]
    return counted, sum(answer.tokens for answer in answers) / run_s
