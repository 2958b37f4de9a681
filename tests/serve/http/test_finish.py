"""How an answer ended, read from its bytes in the words of one endpoint for all of them."""

from __future__ import annotations

import json

import pytest

from serve.http.failures import RequestRefused, event
from serve.http.finish import Finish

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def finish(path: str, *chunks: bytes) -> Finish:
    read = Finish()
    for chunk in chunks:
        read.read(path, chunk)
    return read


DOCUMENTS = [
    (
        CHAT,
        b'{"choices":[{"message":{"content":"\\"finish_reason\\":\\"length\\"","refusal":null},'
        b'"finish_reason":"stop","stop_reason":"END"}],"usage":{"prompt_tokens":7}}',
        "stop",
    ),
    ("/v1/completions", b'{"choices":[{"text":"a","finish_reason":"length"}]}', "length"),
    (CHAT, b'{"choices":[{"finish_reason":"length"},{"finish_reason":"stop"}]}', "length"),
    (CHAT, b'{"choices":[{"finish_reason":"tool_calls"}]}', "tool_calls"),
    (MESSAGES, b'{"content":[],"stop_reason":"max_tokens","stop_sequence":null}', "length"),
    (MESSAGES, b'{"content":[],"stop_reason":"end_turn"}', "stop"),
    (MESSAGES, b'{"content":[],"stop_reason":"tool_use"}', "tool_calls"),
    (
        RESPONSES,
        b'{"id":"resp_1","incomplete_details":null,"output":[{"type":"message","status":"completed"'
        b'}],"status":"completed"}',
        "stop",
    ),
    (
        RESPONSES,
        b'{"id":"resp_1","incomplete_details":{"reason":"max_output_tokens"},"output":[{"status":'
        b'"completed"}],"status":"incomplete"}',
        "length",
    ),
    (RESPONSES, b'{"id":"resp_1","incomplete_details":null,"status":"queued"}', None),
    ("/v1/embeddings", b'{"data":[]}', None),
]


@pytest.mark.parametrize(("path", "document", "reason"), DOCUMENTS)
def test_a_document_wherever_it_is_cut(path: str, document: bytes, reason: str | None) -> None:
    spaced = json.dumps(json.loads(document)).encode()
    for text in (document, spaced):
        for at in range(len(text)):
            read = finish(path, text[:at], text[at:])
            assert (read.reason, read.refused, read.broken) == (reason, False, False), at
        assert finish(path, *(text[n : n + 1] for n in range(len(text)))).reason == reason


@pytest.mark.parametrize(
    ("path", "chunks", "reason"),
    [
        (
            CHAT,
            [
                b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n',
                b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n',
                b'data: {"choices":[],"usage":{"prompt_tokens":7}}\n\n',
                b"data: [DONE]\n\n",
            ],
            "length",
        ),
        (
            MESSAGES,
            [
                b'event: message_start\ndata: {"message":{"stop_reason":null}}\n\n',
                b'event: message_delta\ndata: {"delta":{"stop_reason":"stop_sequence"}}\n\n',
            ],
            "stop",
        ),
        (
            RESPONSES,
            [
                b'event: response.created\ndata: {"response":{"status":"in_progress"}}\n\n',
                b'event: response.output_item.done\ndata: {"item":{"status":"completed"}}\n\n',
                b'event: response.completed\ndata: {"response":{"incomplete_details":{"reason":'
                b'"max_output_tokens"},"output":[{"status":"completed"}],"status":"incomplete"}}\n\n',
            ],
            "length",
        ),
    ],
    ids=["chat", "messages", "responses"],
)
def test_a_stream(path: str, chunks: list[bytes], reason: str) -> None:
    assert finish(path, *chunks).reason == reason
    assert finish(path, *chunks[:1]).reason is None, "it broke off"


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (CHAT, b'{"choices":[{"message":{"refusal":"I would rather not."}}]}'),
        (CHAT, b'{"choices":[{"finish_reason":"content_filter"}]}'),
        (CHAT, b'data: {"choices":[{"delta":{"refusal":"I"}}]}\n\n'),
        (MESSAGES, b'{"content":[],"stop_reason":"refusal"}'),
        (RESPONSES, b'{"output":[{"content":[{"refusal":"No.","type":"refusal"}]}]}'),
        (RESPONSES, b'{"incomplete_details":{"reason":"content_filter"},"status":"incomplete"}'),
    ],
)
def test_a_refusal(path: str, document: bytes) -> None:
    assert finish(path, document).refused
    assert not finish(path, document.replace(b'"', b'\\"')).refused, "a model may speak of it"


def test_an_empty_refusal_is_none() -> None:
    assert not finish(CHAT, b'{"message":{"refusal":""}}').refused


def test_a_stream_that_ends_in_an_error() -> None:
    token = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    error = RequestRefused(503, "The engine is dead.", fix="Wait.")
    for path in (CHAT, MESSAGES):
        assert finish(path, token, event(error, path)).broken
    assert finish(CHAT, b'data: {"error":{"message":"no"}}\n\n').broken, "as vLLM says it"
    assert not finish(CHAT, token).broken
