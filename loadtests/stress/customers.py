"""Customers: every form of `model`, streams and not, and some who leave before they are served."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtests.stress.findings import Findings
from loadtests.stress.ledger import Ledger

MESSAGES = (
    "What is the capital of France?",
    "The kettle does not turn on.",
    "Name three birds.",
    "My order is late.",
    "Write a line about rain.",
    "How many days has a week?",
)
_MAX_TOKENS = 16
_ZIPF = 1.1
_HUNG_S = 120.0
_GHOSTS = ("ghost-{}", "{}@v9", "../{}", "fleet-0@nowhere-{}", "fleet-0@v{}00000", "/etc/{}")
_MALFORMED: tuple[bytes, ...] = (
    b"{",
    b"[]",
    b'{"messages": []}',
    b'{"model": 7, "messages": []}',
    b'{"model": "tiny", "messages": "hello"}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": -1}',
)


@dataclass(slots=True)
class Asked:
    """A request, and what came of it."""

    model: str
    message: str
    chat: bool
    stream: bool
    leaves_after: int | None = None
    """Events of a stream after which the client is gone; None: it stays."""
    leaves_after_s: float | None = None
    sent: float = 0.0
    done: float = 0.0
    status: int = 0
    served_by: str = ""
    """`x-adapter`."""
    named: set[str] = field(default_factory=set)
    """Every `model` of the answer."""
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    whole: bool = False
    """Whether the answer came to its end."""
    error: str = ""

    @property
    def content(self) -> dict[str, Any]:
        """The request's body."""
        asked: dict[str, Any] = {
            "model": self.model,
            "max_tokens": _MAX_TOKENS,
            "temperature": 0,
            "stream": self.stream,
            "return_token_ids": True,
        }
        if self.chat:
            asked["messages"] = [{"role": "user", "content": self.message}]
        else:
            asked["prompt"] = self.message
        return asked

    def take(self, part: dict[str, Any]) -> None:
        """Add a document, or an event of a stream."""
        if "error" in part:
            self.error = json.dumps(part["error"])
            return
        self.named.add(str(part["model"]))
        for choice in part["choices"]:
            self.tokens += choice.get("token_ids") or ()
            said = choice.get("message") or choice.get("delta") or choice
            self.text += said.get("content") or said.get("text") or ""


class Customers:
    """Ask for whatever there is, each one thing at a time."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        ledger: Ledger,
        findings: Findings,
        check: Callable[[Asked], None],
        base: str,
    ) -> None:
        self._http = http
        self._ledger = ledger
        self._findings = findings
        self._check = check
        self._base = base

    async def run(self, until: float, rng: random.Random) -> None:
        """One customer, until so long."""
        while self._findings.goes_on(until):
            if rng.random() < 0.02:
                await self._malformed(rng)
                continue
            asked = self._choose(rng)
            try:
                await asyncio.wait_for(self._ask(asked), _HUNG_S)
            except TimeoutError:
                self._findings.violation("hung", f"{asked.model} was not answered in {_HUNG_S} s")
                continue
            except httpx.HTTPError as error:
                self._findings.violation("connection", f"{asked.model}: {error!r}")
                await asyncio.sleep(0.5)
                continue
            self._check(asked)

    def _choose(self, rng: random.Random) -> Asked:
        asked = Asked(
            self._model(rng),
            rng.choice(MESSAGES),
            chat=rng.random() < 0.7,
            stream=rng.random() < 0.6,
        )
        leaves = rng.random()
        if leaves < 0.06 and asked.stream:
            asked.leaves_after = rng.randrange(1, 8)
        elif leaves < 0.15:
            asked.leaves_after_s = rng.choice([0.0, 0.01, 0.05, 0.2, 0.5]) * rng.random()
        return asked

    def _model(self, rng: random.Random) -> str:
        names, kind = self._ledger.names, rng.random()
        if kind < 0.08:
            return self._base
        if kind < 0.11:
            return rng.choice(_GHOSTS).format(rng.randrange(1 << 40))
        (name,) = rng.choices(names, [1 / rank**_ZIPF for rank in range(1, len(names) + 1)])
        now = self._ledger.now(name)
        if kind < 0.45:
            return name
        if kind < 0.65:
            return f"{name}@{rng.choice([*now.aliases, 'latest', 'production'])}"
        number = rng.randint(1, max(now.versions, default=1))
        if kind < 0.9 and now.versions:
            number = rng.choice(sorted(now.versions))
        if kind < 0.95 and (found := self._ledger.of(name, number)):
            return found.version.engine_name
        return f"{name}@v{number}"

    async def _ask(self, asked: Asked) -> None:
        asked.sent = time.monotonic()
        asking = self._stream(asked) if asked.stream else self._whole(asked)
        try:
            if asked.leaves_after_s is None:
                await asking
            else:
                await asyncio.wait_for(asking, asked.leaves_after_s)
        except TimeoutError:
            self._findings.count("clients that left in a hurry")
        asked.done = time.monotonic()

    async def _whole(self, asked: Asked) -> None:
        reply = await self._http.post(_path(asked), json=asked.content)
        _note(asked, reply)
        asked.take(reply.json())
        asked.whole = True

    async def _stream(self, asked: Asked) -> None:
        async with self._http.stream("POST", _path(asked), json=asked.content) as reply:
            _note(asked, reply)
            if reply.status_code != 200:
                asked.take(json.loads(await reply.aread()))
                return
            events = 0
            async for line in reply.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    asked.whole = True
                    return
                asked.take(json.loads(line.removeprefix("data: ")))
                events += 1
                if events == asked.leaves_after:
                    self._findings.count("clients that left in a stream")
                    return

    async def _malformed(self, rng: random.Random) -> None:
        content = rng.choice(_MALFORMED)
        reply = await self._http.post("/v1/chat/completions", content=content)
        self._findings.count(f"malformed: {reply.status_code}")
        if reply.status_code not in (400, 422):
            self._findings.violation("malformed", f"{content!r} is {reply.status_code}")


def _path(asked: Asked) -> str:
    return "/v1/chat/completions" if asked.chat else "/v1/completions"


def _note(asked: Asked, reply: httpx.Response) -> None:
    asked.status = reply.status_code
    asked.served_by = reply.headers.get("x-adapter", "")
