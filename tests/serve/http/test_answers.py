"""What answers say: the text of vLLM's documents and streams, as it was recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.http.answers import ANSWERING, text_of

CHAT, LEGACY = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"


def document(path: str, text: str) -> dict[str, Any]:
    """Return an answer in a path's form."""
    return {
        CHAT: {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]},
        LEGACY: {"choices": [{"index": 0, "text": text}, {"index": 1, "text": "another"}]},
        RESPONSES: {
            "output": [
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "content": [{"type": "output_text", "text": text}]},
            ]
        },
        MESSAGES: {
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}]
        },
    }.get(path, {})  # fmt: skip


def stream(path: str, *texts: str) -> bytes:
    """Return an answer's events in a path's form."""
    first: dict[str, Any] = {
        CHAT: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        LEGACY: {"choices": [{"index": 1, "text": "another"}]},
        RESPONSES: {"type": "response.reasoning_text.delta", "delta": "hm"},
        MESSAGES: {
            "type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}
        },
    }[path]  # fmt: skip
    each = {
        CHAT: lambda text: {"choices": [{"index": 0, "delta": {"content": text}}]},
        LEGACY: lambda text: {"choices": [{"index": 0, "text": text}]},
        RESPONSES: lambda text: {"type": "response.output_text.delta", "delta": text},
        MESSAGES: lambda text: {
            "type": "content_block_delta", "delta": {"type": "text_delta", "text": text}
        },
    }[path]  # fmt: skip
    events = [json.dumps(event) for event in (first, *map(each, texts), {"choices": []})]
    return "".join(f"event: x\ndata: {event}\n\n" for event in (*events, "[DONE]")).encode()


@pytest.mark.parametrize("path", sorted(ANSWERING))
@given(texts=st.lists(st.text(), min_size=1))
def test_a_document_and_its_stream_say_the_same(path: str, texts: list[str]) -> None:
    whole = "".join(texts)
    assert text_of(path, json.dumps(document(path, whole)).encode()) == whole
    assert text_of(path, stream(path, *texts)) == whole


@pytest.mark.parametrize("path", sorted(ANSWERING))
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"error": {"message": "no"}}',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null, "tool_calls": []}}]}',
        b'data: {"error": {"message": "it died"}}\n\n',
        b"data: [DONE]\n\n",
        b"data: {\n\n",
        b"\xff\xfe",
    ],
)
def test_what_says_nothing_has_no_text(path: str, body: bytes) -> None:
    assert text_of(path, body) is None


@pytest.mark.parametrize("path", sorted(ANSWERING))
def test_a_stream_that_broke_off_has_no_text(path: str) -> None:
    assert text_of(path, stream(path, "a") + b'data: {"error": {"message": "it died"}}\n\n') is None
