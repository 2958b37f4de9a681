"""A small in-process `Engine`: answers with what it was asked, loads by noting a name."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Mapping, Set
from typing import Any

from adapters.canary import Answers
from adapters.errors import Unavailable
from adapters.types import Version
from serve.engines.asking import TERMS, Terms
from serve.engines.engine import Memory
from serve.http.asgi import ASGIApp, Receive, Scope, Send, send_json
from serve.http.failures import RequestRefused

_PROMPT_TOKENS = 2
_PATHS = (
    *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses"),
    *("/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings", "/v1/score", "/v1/rerank"),
    *("/tokenize", "/detokenize"),
)


class EchoEngine:
    """Answers any POST with `{model, path, echo: <the body>}`; see the port.

    A body with `max_tokens` gets so many counted as usage; with `stream`, an event for each. A
    prompt is as long as its messages have words.
    """

    def __init__(
        self, base: str, *, max_lora_rank: int = 64, memory_places: int = 1000, slots: int = 4
    ) -> None:
        self._base = base
        self._rank = max_lora_rank
        self._places, self._slots = memory_places, slots
        self._loaded: set[str] = set()
        self._memory: list[str] = []
        self._resident: list[str] = []
        self._pinned: set[str] = set()
        self.loads: list[str] = []
        """Every load that did something, in order."""
        self.trouble: str | None = None
        """Set it, and the engine is not healthy and loads nothing."""
        self.idle: set[str] = set()
        """Names whose weights do nothing: they answer canaries as the base."""
        self.waiting = 0
        """Set it, and there is a queue."""
        self.gate = asyncio.Event()
        """Clear it, and loads wait."""
        self.gate.set()

    @property
    def app(self) -> ASGIApp:
        return self._answer

    def document(self) -> dict[str, Any]:
        return {
            "openapi": "3.1.0",
            "info": {"title": "echo", "version": "0"},
            "paths": {
                **{path: {"post": _asking("Chat")} for path in _PATHS},
                "/v1/responses/{response_id}": {"get": {"responses": {}}},
                "/health": {"get": {"responses": {}}},
                "/load_folder": {"post": _asking("Folder")},
            },
            "components": {
                "schemas": {
                    "Chat": {"properties": {"of": {"$ref": "#/components/schemas/Turn"}}},
                    "Turn": {"properties": {"next": {"$ref": "#/components/schemas/Turn"}}},
                    "Folder": {"properties": {"path": {"type": "string"}}},
                }
            },
        }

    @property
    def max_lora_rank(self) -> int:
        return self._rank

    @property
    def memory_places(self) -> int:
        return self._places

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def exactness(self) -> float:
        return 0.01

    async def load(self, version: Version) -> float:
        await self.gate.wait()
        await self.check()
        name = version.engine_name
        if name not in self._memory:
            self.loads.append(name)
            self._loaded.add(name)
            self._enter(name)
        return 0.0

    async def remove(self, engine_name: str) -> None:
        self._loaded.discard(engine_name)
        self._pinned.discard(engine_name)
        for place in (self._memory, self._resident):
            if engine_name in place:
                place.remove(engine_name)

    def loaded(self) -> Set[str]:
        return frozenset(self._loaded)

    async def memory(self) -> Memory:
        return Memory(tuple(self._memory), frozenset(self._resident))

    async def pin(self, engine_name: str, pinned: bool) -> None:
        if pinned and engine_name not in self._memory:
            raise Unavailable(f"{engine_name} is not in memory.", fix="Load it, and pin it then.")
        (self._pinned.add if pinned else self._pinned.discard)(engine_name)

    async def canary(self, engine_name: str | None) -> Answers:
        if engine_name is None or engine_name in self.idle:
            return ({1: -1.0},)
        self._enter(engine_name)
        return ({1: -1.0 - zlib.crc32(engine_name.encode()) / (1 << 32)},)

    async def check(self) -> None:
        if self.trouble:
            raise Unavailable(self.trouble, fix="Wait, and try again.")

    def _enter(self, name: str) -> None:
        """Put a name last in memory and in the slots; what no place is left for goes."""
        kept = ((self._memory, self._places, self._pinned), (self._resident, self._slots, ()))
        for place, size, pinned in kept:
            if name in place:
                place.remove(name)
            elif len(place) >= size:
                place.remove(next(each for each in place if each not in pinned))
            place.append(name)
        self._resident = [each for each in self._resident if each in self._memory]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        asked = json.loads(body) if body else {}
        model = asked.get("model")
        if body and model != self._base and model not in self._loaded:
            missing = {"message": f"The model `{model}` does not exist.", "code": 404}
            await send_json(send, 404, {"error": missing})
            return
        if model in self._loaded:
            self._enter(model)
        terms, length = TERMS.get() or Terms(str(model)), _length(asked)
        try:
            terms.check(length)
        except RequestRefused as error:
            await send_json(send, error.status, {"error": {"message": str(error)}})
            return
        model, tokens = terms.answers_as, terms.room(length, asked.get("max_tokens") or 1) or 1
        usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": tokens}
        if asked.get("stream") is True:
            await _stream(send, model, tokens, usage if asked.get("stream_options") else None)
            return
        answer = {"model": model, "path": scope["path"], "echo": asked}
        if "max_tokens" in asked:
            answer["usage"] = usage
        await send_json(send, 200, answer)


def _asking(schema: str) -> dict[str, Any]:
    form = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {"requestBody": {"content": {"application/json": form}}, "responses": {}}


def _length(asked: Mapping[str, Any]) -> int:
    return len(json.dumps(asked.get("messages", "")).split())


async def _stream(send: Send, model: str, tokens: int, usage: dict[str, int] | None) -> None:
    """Send one event a token, as vLLM does: a chunk each."""
    token = {"model": model, "choices": [{"delta": {"content": "a"}}]}
    events: list[dict[str, Any]] = [token] * tokens
    if usage:
        events.append({"model": model, "choices": [], "usage": usage})
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in (*(json.dumps(each, separators=(",", ":")) for each in events), "[DONE]"):
        body = f"data: {event}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
