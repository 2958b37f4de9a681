"""The ASGI contract as types, and the few bytes we answer with ourselves.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header's first value; `name` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            decoded: str = value.decode("latin-1")
            return decoded
    return None


def path_of(scope: Scope) -> str:
    """Return the path inside the app, percent-decoded, without a proxy's root path."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def send_json(send: Send, status: int, content: Any, headers: Iterable[Header] = ()) -> None:
    """Answer with a JSON document."""
    body = json.dumps(content).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


def with_headers(send: Send, added: Iterable[Header]) -> Send:
    """Return a `send` that puts `added` into the response, in place of headers so named."""
    ours = tuple(added)
    names = {name for name, _ in ours}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            message = {**message, "headers": [*kept, *ours]}
        await send(message)

    return sending
