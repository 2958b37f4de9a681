"""A request's body: read within limits, read as JSON, given on to the app behind."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from adapters.weights import refuse_constant
from serve.http.asgi import Message, Receive, Scope
from serve.http.failures import RequestRefused

_LONG_NUMBER = re.compile(rb"\d{19}")
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
"""What to look at twice: as fast as the bytes pass, and seldom there."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may cost before anything is known about it."""

    size_bytes: int = 32 << 20
    """Room for a few pictures in base64."""
    read_timeout_s: float = 30.0
    """From the headers to the body's last byte."""


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


async def read(receive: Receive, limits: Limits) -> bytes:
    """Return the whole body.

    Raises:
        RequestRefused: 413 or 408.
        ClientGone: the connection closed before the end.
    """
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.read_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limits.size_bytes:
                    raise RequestRefused(
                        413, f"The body is larger than {limits.size_bytes} bytes.", fix="Send less."
                    )
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise RequestRefused(
            408, f"The body did not arrive within {limits.read_timeout_s:g} s.", fix="Try again."
        ) from None


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Stop the block, which waits for something, when the client leaves. The body has been read.

    Raises:
        ClientGone: it left.
    """
    waiting, gone = asyncio.current_task(), False

    async def watch() -> None:
        nonlocal gone
        gone = (await receive())["type"] == "http.disconnect"
        if gone and waiting:
            waiting.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and waiting and not waiting.uncancel():
            raise ClientGone from None
        raise
    finally:
        watching.cancel()


def parse(body: bytes) -> dict[str, Any]:
    """Read a body as one JSON object, of numbers and texts that the engine can be told.

    Integers have 64 bits there, and texts are UTF-8: half of a surrogate pair is none.

    Raises:
        RequestRefused: 400.
    """

    try:
        content = json.loads(
            body,
            parse_constant=refuse_constant,
            parse_int=_int64 if _LONG_NUMBER.search(body) else None,
        )
        if _HALF_CHARACTER.search(body):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestRefused(
            400, f"A text holds {error.object[error.start]!a}, half a character.", fix="Send UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, f"The body is not JSON: {error}.", fix="Send JSON.") from None
    if not isinstance(content, dict):
        raise RequestRefused(400, "The body is not a JSON object.", fix='Send {"…": …}.')
    return content


def _int64(digits: str) -> int:
    number = int(digits)
    if not -(1 << 63) <= number < 1 << 63:
        raise RequestRefused(
            400, f"{digits[:24]} is no integer of 64 bits.", fix="Send a smaller number."
        )
    return number


def spoken(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return a body without those fields of Responses that are `null`: it says nothing there.

    vLLM copies them into an answer that must not have them, and fails. Elsewhere it knows them.
    """
    if path != "/v1/responses":
        return content
    return {key: value for key, value in content.items() if value is not None}


def replaced(scope: Scope, receive: Receive, content: Mapping[str, Any]) -> tuple[Scope, Receive]:
    """Return a scope and a `receive` that carry `content` as the body instead.

    After the body `receive` goes on with the client's own messages, so the app still notices
    when the client leaves.
    """
    body = json.dumps(content).encode()
    left_out = (b"content-length", b"transfer-encoding")
    headers = [pair for pair in scope["headers"] if pair[0] not in left_out]
    headers.append((b"content-length", str(len(body)).encode()))
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return {**scope, "headers": headers}, receiving
