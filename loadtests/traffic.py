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


async def closed_loop(
    url: str,
    models: Sequence[str],
    weights: Sequence[float],
    *,
    in_flight: int,
    warm_s: float,
    run_s: float,
    tokens: tuple[int, int],
    seed: int = 0,
) -> tuple[list[Answer], float]:
    """Return the answers that began in the run or had not begun when it ended, and tokens a second.

    `tokens`: the shortest and the longest answer; all between are as likely. Answers are streamed;
    those that the run cuts count by the share that falls into it.
    """
    chance, answers = random.Random(seed), []
    begins = time.perf_counter() + warm_s
    ends = begins + run_s

    async def ask(client: aiohttp.ClientSession, model: str) -> None:
        length, events, status = chance.randint(*tokens), 0, 0
        content = {
            "model": model, "prompt": chance.choice(_PROMPTS), "max_tokens": length,
            "temperature": 0, "ignore_eos": True, "stream": True,
        }  # fmt: skip
        asked, first, last = time.perf_counter(), None, 0.0
        try:
            async with client.post(f"{url}/v1/completions", json=content) as reply:
                status = reply.status
                async for line in reply.content:
                    if line.startswith(b"data: {"):
                        last = time.perf_counter()
                        first = first or last
                        events += begins <= last <= ends
            if first and last > first:  # a server that is behind puts several tokens into an event
                inside = max(0.0, min(last, ends) - max(first, begins)) / (last - first)
                events = round(length * inside)
        finally:
            answers.append(Answer(model, asked, first, events, status))

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
