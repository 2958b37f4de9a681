"""Outermost: takes the time of every request and, when it is over, counts it and logs it.

Looks at the bytes of no request, and of answers only whether there are any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serve.http.access import Kind, classify
from serve.http.asgi import ASGIApp, Message, Receive, Scope, Send, path_of
from serve.watching.exchange import CLIENT_GONE, Exchange, exchange
from serve.watching.metrics import Metrics

if TYPE_CHECKING:
    from serve.watching.tracing import Tracing

log = logging.getLogger("switchyard.access")

_PROBES = ("/health", "/ready", "/metrics")
"""Asked several times a second, and worth a line only when they fail."""
_COLLECTIONS = ("/v1/models", "/v1/responses", "/v1/adapters")
_PROMPT = ("system", "instructions", "messages", "prompt", "input")
_TOKENS = {"/v1/messages": b"content_block_delta", "/v1/responses": b'.delta"'}
"""What stands in a stream's event that carries tokens, where others say what begins and ends."""
_NO_TOKENS = (b'"role":"assistant"', b"data: [DONE]")
"""What stands in those that carry none, elsewhere: the first and the last."""


class Observer:
    """An app that answers as the app behind it does."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        tracing: Tracing | None = None,
        log_prompts: bool = False,
        recording: Callable[[Exchange, int, float, float | None], None] | None = None,
    ) -> None:
        """`recording`: told of each exchange that is over: status, time, and time of first token,
        in seconds."""
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._log_prompts = log_prompts
        self._recording = recording

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        noted, span = exchange(scope), None
        if self._tracing:
            scope, span = self._tracing.begin(scope)
        watch = _Watch(noted, self._metrics, send, path_of(scope))
        counting = path_of(scope) not in _PROBES
        self._metrics.running.inc(counting)
        try:
            await self._app(scope, receive, watch.send)
        except Exception as error:
            noted.error = type(error).__name__
            raise
        finally:
            self._metrics.running.dec(counting)
            self._over(scope, noted, watch)
            if self._tracing and span:
                self._tracing.end(span, scope, noted, watch.status)

    def _over(self, scope: Scope, noted: Exchange, watch: _Watch) -> None:
        path, took_s = path_of(scope), time.monotonic() - watch.began
        if not watch.ended:
            noted.error = noted.error or CLIENT_GONE
        elif watch.status >= 400:
            noted.error = noted.error or "engine"
        self._metrics.answered(noted, _endpoint(path), watch.status, took_s)
        if self._recording:
            self._recording(noted, watch.status, took_s, watch.first_s)
        if path in _PROBES and watch.status < 400:
            return
        line = _line(scope, noted, watch, took_s)
        if self._log_prompts:
            line["prompt"] = {key: noted.content[key] for key in _PROMPT if key in noted.content}
        shown = (
            scope["method"],
            line["path"],
            watch.status,
            noted.engine_name or "-",
            took_s * 1e3,
        )
        log.info("%s %s %s %s %.0f ms", *shown, extra=line)


class _Watch:
    """Sees an answer pass. Status 499 where none began: the client had left."""

    def __init__(self, noted: Exchange, metrics: Metrics, send: Send, path: str) -> None:
        self.began = time.monotonic()
        self.status = 499
        self.first_s: float | None = None
        self.ended = False
        self._noted = noted
        self._metrics = metrics
        self._send = send
        self._tokens = _TOKENS.get(path)
        self._stream = False
        self._last = 0.0
        self._next_token: Callable[[float], None] = lambda _: None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._stream = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message.get("headers", ())
            )
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            if self._stream and message.get("body") and self._is_token(message["body"]):
                self._tick()
        await self._send(message)

    def _is_token(self, chunk: bytes) -> bool:
        if self._tokens:
            return self._tokens in chunk
        return not any(word in chunk for word in _NO_TOKENS)

    def _tick(self) -> None:
        now = time.monotonic()
        if self.first_s is None:
            self.first_s = now - self.began
            self._next_token = self._metrics.first_token(self._noted, self.first_s)
        else:
            self._next_token(now - self._last)
        self._last = now


def _line(scope: Scope, noted: Exchange, watch: _Watch, took_s: float) -> dict[str, Any]:
    """Return what the access log says of a request: no prompt, no answer, no key."""
    path = path_of(scope)
    version = noted.route.version if noted.route else None
    arm = noted.route.arm if noted.route else None
    said = {
        "request_id": noted.request_id,
        "method": scope["method"],
        "path": path[:200] if path.isprintable() else ascii(path[:200]),
        "status": watch.status,
        "duration_ms": round(took_s * 1e3, 1),
        "ttft_ms": None if watch.first_s is None else round(watch.first_s * 1e3, 1),
        "adapter": version.name if version else None,
        "engine_name": noted.engine_name or None,
        "arm": arm.name if arm else None,
        "key": noted.key,
        "prompt_tokens": noted.tally.prompt_tokens or None,
        "completion_tokens": noted.tally.completion_tokens or None,
        "error": noted.error or None,
    }
    return {key: value for key, value in said.items() if value is not None}


def _endpoint(path: str) -> str:
    """Return the path without what a client chose of it."""
    if classify(path) is Kind.DENIED:
        return "other"
    return next((one for one in _COLLECTIONS if path.startswith(f"{one}/")), path)
