"""What an answer says, as text: read from its document, or from the events of its stream. Pure.

For those who keep answers: it takes the whole of one, which has passed already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ANSWERING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
"""Where one prompt gets one answer, or `n` choices of it."""
_EVENT = b"data:"


def text_of(path: str, body: bytes) -> str | None:
    """Return the text of an answer's first choice; None: it has none, or cannot be read.

    `body`: all of it. What calls tools, thinks or refuses instead of speaking says nothing here.
    """
    try:
        if body.lstrip().startswith((b"data:", b"event:", b":")):
            said = [_delta(path, event) for event in _events(body)]
        else:
            said = list(_document(path, json.loads(body)))
    except (ValueError, AttributeError, LookupError, TypeError):
        return None  # no answer of this endpoint: an error's document, say
    found = [text for text in said if isinstance(text, str)]
    return "".join(found) if found else None


def _events(body: bytes) -> Iterator[Mapping[str, Any]]:
    for line in body.splitlines():
        if line.startswith(_EVENT) and line[len(_EVENT) :].strip() != b"[DONE]":
            event = json.loads(line[len(_EVENT) :])
            if event.get("error"):
                raise ValueError("it broke off")
            yield event


def _delta(path: str, event: Mapping[str, Any]) -> Any:
    if path == "/v1/messages":
        return event.get("delta", {}).get("text")
    if path == "/v1/responses":
        return event["delta"] if event.get("type") == "response.output_text.delta" else None
    for choice in event.get("choices", ()):
        if choice.get("index", 0) == 0:
            return choice["text"] if "text" in choice else choice["delta"].get("content")
    return None


def _document(path: str, document: Mapping[str, Any]) -> Iterator[Any]:
    if path == "/v1/messages":
        yield from (block.get("text") for block in document["content"])
    elif path == "/v1/responses":
        messages = (item for item in document["output"] if item.get("type") == "message")
        yield from (part.get("text") for item in messages for part in item["content"])
    else:
        first = document["choices"][0]
        yield first["text"] if "text" in first else first["message"].get("content")
