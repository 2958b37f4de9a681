"""What an answer took, read from its bytes; and a stream that shows only what was asked for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serve.http.usage import Tally, counted


def tally(*chunks: bytes) -> tuple[int, int]:
    read = Tally()
    for chunk in chunks:
        read.read(chunk)
    return read.prompt_tokens, read.completion_tokens


CHAT = (
    b'{"id":"1","choices":[{"message":{"content":"say \\"usage\\":{\\"prompt_tokens\\":99}"}}],'
    b'"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3,'
    b'"prompt_tokens_details":null},"prompt_logprobs":null}'
)


def test_a_document_wherever_it_is_cut() -> None:
    assert tally(CHAT) == (7, 3)
    for at in range(len(CHAT)):
        assert tally(CHAT[:at], CHAT[at:]) == (7, 3), at
    assert tally(*(CHAT[n : n + 1] for n in range(len(CHAT)))) == (7, 3)


def test_what_the_model_says_of_usage_is_not_usage() -> None:
    said = json.dumps({"choices": [{"text": '"usage":{"prompt_tokens":1,"completion_tokens":1}'}]})
    assert tally(said.encode()) == (0, 0)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b'{"data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}'], (5, 0)),
        (
            [
                b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
                b'{"input_tokens":4,"output_tokens":0}}}\n\n',
                b'event: content_block_delta\ndata: {"delta":{"text":"a"}}\n\n',
                b'event: message_delta\ndata: {"usage":{"input_tokens":4,"output_tokens":9}}\n\n',
            ],
            (4, 9),
        ),
        (
            [
                b'event: response.created\ndata: {"response":{"usage":null}}\n\n',
                b'event: response.completed\ndata: {"response":{"usage":'
                b'{"input_tokens":6,"output_tokens":2}}}\n\n',
            ],
            (6, 2),
        ),
        ([b'{"error":{"message":"no"}}'], (0, 0)),
        ([b'{"usage":{broken'], (0, 0)),
    ],
    ids=["embeddings", "messages", "responses", "an error", "nonsense"],
)
def test_each_endpoint_says_it_in_its_own_way(
    chunks: list[bytes], expected: tuple[int, int]
) -> None:
    assert tally(*chunks) == expected


def test_a_stream_that_broke_off_counts_its_events() -> None:
    assert tally(*[b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'] * 5) == (0, 5)
    start = (
        b'event: message_start\ndata: {"message":{"usage":{"input_tokens":4,"output_tokens":0}}}'
    )
    assert tally(start + b"\n\n", b'event: x\ndata: {"delta":1}\n\n') == (4, 2)


TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def stream(content: dict[str, Any], chunks: list[bytes], path: str = "/v1/completions") -> Any:
    """Return what the engine is asked for, the bytes that the client gets, and the tally."""
    sent: list[bytes] = []
    read = Tally()

    async def send(message: Any) -> None:
        assert (
            message["type"] != "http.response.body" or message["body"] or not message["more_body"]
        )
        sent.append(message.get("body", b""))

    asked, counting = counted(path, content, send, read)

    async def play() -> None:
        await counting({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in chunks:
            await counting({"type": "http.response.body", "body": chunk, "more_body": True})
        await counting({"type": "http.response.body", "body": b"", "more_body": False})

    asyncio.run(play())
    return asked, b"".join(sent), (read.prompt_tokens, read.completion_tokens)


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {}},
                                     {"stream_options": {"include_usage": False}}])  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_client_that_asked_for_no_usage_gets_none_and_it_is_counted(
    options: dict[str, Any], path: str
) -> None:
    content = {"stream": True, "prompt": "x", **options}
    for chunks in ([TOKEN, USAGE, DONE], [TOKEN + USAGE + DONE]):
        asked, got, counts = stream(content, chunks, path)
        assert asked["stream_options"] == {
            "include_usage": True,
            "continuous_usage_stats": False,
        }
        assert got == TOKEN + DONE
        assert counts == (7, 3)


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, "/v1/chat/completions"),
        ({"stream": False}, "/v1/chat/completions"),
        ({}, "/v1/completions"),
        ({"stream": True}, "/v1/messages"),
        ({"stream": True, "stream_options": "wrong"}, "/v1/completions"),
    ],
)
def test_everything_else_passes_as_it_is(content: dict[str, Any], path: str) -> None:
    asked, got, counts = stream(content, [TOKEN, USAGE, DONE], path)
    assert asked == content
    assert got == TOKEN + USAGE + DONE
    assert counts == (7, 3)
