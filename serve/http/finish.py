"""How an answer ended: read as the bytes pass, as `usage` is, without parsing them.

Keys with bare quotes never stand inside a JSON string, and vLLM writes them on every endpoint: a
document's at its end, a stream's in one of its last events. What the words mean is told in those of
OpenAI's chat completions, so that one experiment counts its endpoints together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from serve.http.asgi import Message, Send
from serve.http.failures import STREAM_ERRORS

_CUT = 96
"""Bytes kept of a chunk, in case what is looked for is cut between two; longer than any of it."""
_KEYS = {
    "/v1/messages": re.compile(rb'"stop_reason":\s*"(\w+)"'),
    "/v1/responses": re.compile(
        rb'"(?:incomplete_details":\s*\{\s*"reason":\s*"(\w+)|status":\s*"(completed))"'
    ),
}
_ELSEWHERE = re.compile(rb'"finish_reason":\s*"(\w+)"')
_COMPLETED = "completed"
"""Each item of a response says so, before the response says that it was cut short."""
_REFUSAL = re.compile(rb'"refusal":\s*"[^"]')
_WORDS = {
    _COMPLETED: "stop",
    "max_output_tokens": "length",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


@dataclass(slots=True)
class Finish:
    """Of one answer, as far as it was read."""

    broken: bool = False
    """A stream ended in an error."""
    _refused: bool = False
    _word: str = ""
    _left: bytes = field(default=b"", repr=False)

    @property
    def reason(self) -> str | None:
        """`stop`, `length`, `tool_calls`, `content_filter` …; of several answers the first's."""
        return _WORDS.get(self._word, self._word) or None

    @property
    def refused(self) -> bool:
        """The model would not answer, or was not let."""
        return self._refused or self.reason == "content_filter"

    def read(self, path: str, chunk: bytes) -> None:
        """Look at the next bytes of a body, in whatever pieces they come."""
        self.broken = self.broken or chunk.startswith(STREAM_ERRORS)
        text = self._left + chunk
        for found in _KEYS.get(path, _ELSEWHERE).finditer(text):
            if self._word in ("", _COMPLETED):
                self._word = found[found.lastindex or 1].decode()
        self._refused = self._refused or _REFUSAL.search(text) is not None
        self._left = text[-_CUT:]


def watched(path: str, send: Send, finish: Finish) -> Send:
    """Return a `send` that feeds `finish`."""

    async def sending(message: Message) -> None:
        if chunk := message.get("body", b""):
            finish.read(path, chunk)
        await send(message)

    return sending
