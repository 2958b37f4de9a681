"""What an answer took, in tokens: read from `usage` as the bytes pass, without parsing them.

`"usage":` with bare quotes never stands inside a JSON string, so finding it is enough. It is where
vLLM says it on every endpoint: at the end of a document, in the last events of a stream. A chat or
completion stream tells only if it is asked to; it is asked to here, and what the client did not
ask for does not reach it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.http.asgi import Message, Send

_WORD = b'"usage"'
_KEY = re.compile(rb'"usage":\s*(?=\{)')
_LONGEST_USAGE = 4096
_CUT = 16
"""Bytes kept of a chunk, in case the key itself is cut between two."""
_EVENTS = (b"data: ", b"event: ")
_ASKED = frozenset({"/v1/chat/completions", "/v1/completions"})
_EMPTY = re.compile(rb'"choices":\s*\[\]')
_DECODER = json.JSONDecoder()


@dataclass(slots=True)
class Tally:
    """Tokens of one request; what is not said yet is 0. Feed it the answer's bytes."""

    prompt_tokens: int = 0
    _completion_tokens: int = 0
    _events: int = 0
    _left: bytes = field(default=b"", repr=False)

    @property
    def completion_tokens(self) -> int:
        """While a stream runs, and where it broke off: its events, about one a token."""
        return self._completion_tokens or self._events

    def read(self, chunk: bytes) -> None:
        """Look at the next bytes of a body, in whatever pieces they come."""
        if chunk.startswith(_EVENTS):
            self._events += chunk.count(b"data: ")
        text = self._left + chunk
        if _WORD in text:
            self._find(text)
        else:
            self._left = text[-_CUT:]

    def _find(self, text: bytes) -> None:
        for found in _KEY.finditer(text):
            window = text[found.end() : found.end() + _LONGEST_USAGE].decode("utf-8", "replace")
            try:
                usage, _ = _DECODER.raw_decode(window)
            except ValueError:
                if len(window) < _LONGEST_USAGE:
                    self._left = text[found.start() :]  # cut: the rest comes with the next chunk
                    return
            else:
                self._take(usage)
        self._left = text[-_CUT:]

    def _take(self, usage: Mapping[str, Any]) -> None:
        """OpenAI's names, or those of Responses and Messages; a later event completes."""
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        completion = usage.get("completion_tokens", usage.get("output_tokens"))
        if isinstance(prompt, int):
            self.prompt_tokens = prompt
        if isinstance(completion, int):
            self._completion_tokens = completion


def counted(
    path: str, content: dict[str, Any], send: Send, tally: Tally
) -> tuple[dict[str, Any], Send]:
    """Return the content to ask the engine for, and a `send` that feeds `tally`.

    Where a stream would not say what it took, the content asks for it and `send` leaves that
    event out: the client gets what it asked for.
    """
    options = content.get("stream_options")
    hidden = bool(
        path in _ASKED
        and content.get("stream") is True
        and (options is None or (isinstance(options, dict) and not options.get("include_usage")))
    )
    if hidden:
        # Without `include_usage` vLLM takes no notice of `continuous_usage_stats`: nor with ours.
        asked = {**(options or {}), "include_usage": True, "continuous_usage_stats": False}
        content = {**content, "stream_options": asked}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body" and (chunk := message.get("body", b"")):
            tally.read(chunk)
            if hidden and _WORD in chunk and _EMPTY.search(chunk):
                chunk = _without_usage(chunk)
                if not chunk and message.get("more_body", False):
                    return
                message = {**message, "body": chunk}
        await send(message)

    return content, sending


def _without_usage(chunk: bytes) -> bytes:
    """Leave out events that tell usage and nothing else; vLLM never cuts an event in two."""
    events = chunk.split(b"\n\n")
    return b"\n\n".join(e for e in events if not (_EMPTY.search(e) and _KEY.search(e)))
