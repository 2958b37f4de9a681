"""A small in-process `Engine`: answers with what it was asked, loads by noting a name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any

from adapters.errors import Unavailable
from adapters.types import Version
from serve.asgi import ASGIApp, Receive, Scope, Send, send_json
from serve.asking import TERMS, Terms
from serve.failures import RequestRefused

_PROMPT_TOKENS = 2


class EchoEngine:
    """Answers any POST with `{model, path, echo: <the body>}`; see the port.

    A body with `max_tokens` gets so many counted as usage; with `stream`, an event for each. A
    prompt is as long as its messages have words.
    """

    def __init__(self, base: str, *, max_lora_rank: int = 64) -> None:
        self._base = base
        self._rank = max_lora_rank
        self._loaded: set[str] = set()
        self.loads: list[str] = []
        """Every load that did something, in order."""
        self.trouble: str | None = None
        """Set it, and the engine is not healthy and loads nothing."""

    @property
    def app(self) -> ASGIApp:
        return self._answer

    @property
    def max_lora_rank(self) -> int:
        return self._rank

    async def load(self, version: Version) -> None:
        await self.check()
        if version.engine_name not in self._loaded:
            self.loads.append(version.engine_name)
            self._loaded.add(version.engine_name)

    async def remove(self, engine_name: str) -> None:
        self._loaded.discard(engine_name)

    def loaded(self) -> Set[str]:
        return frozenset(self._loaded)

    async def check(self) -> None:
        if self.trouble:
            raise Unavailable(self.trouble, fix="Wait, and try again.")

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
