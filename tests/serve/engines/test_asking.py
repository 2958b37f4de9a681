"""What the engine finds wrong with a request only once it is under way still has a status."""

from __future__ import annotations

import asyncio
import json

import pytest

from serve.engines.asking import TERMS, Terms, ask
from serve.http.asgi import Message, Receive, Scope, Send
from serve.http.failures import RequestRefused

START = {"type": "http.response.start", "status": 200, "headers": []}
EVENT = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}
OWN_WORD = {"type": "http.response.body", "body": b'data: {"error": {}}\n\n', "more_body": False}
WRONG = RequestRefused(400, "No such grammar.", param="structured_outputs")
BROKEN_OFF = RuntimeError("Caught handled exception, but response already started.")


def played(*steps: Message | Exception, path: str = "/v1/responses") -> list[Message]:
    """What reaches the client of an app that sends messages, notes WRONG, raises other errors."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in steps:
            if step is WRONG:
                terms = TERMS.get()
                assert terms
                terms.refusal = WRONG
            elif isinstance(step, Exception):
                raise step
            else:
                await send(step)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    asyncio.run(ask(app, Terms("small"), {"type": "http", "path": path}, receive, send))
    return sent


@pytest.mark.parametrize("end", [OWN_WORD, BROKEN_OFF])
def test_a_stream_that_has_said_nothing_is_refused_with_a_status(end: Message | Exception) -> None:
    with pytest.raises(RequestRefused) as refused:
        played(START, WRONG, end)
    assert refused.value is WRONG


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_one_that_breaks_off_later_says_why_in_its_last_event(path: str) -> None:
    *before, last = played(START, EVENT, WRONG, BROKEN_OFF, path=path)
    assert before == [START, EVENT]
    assert not last.get("more_body")
    kind, _, said = last["body"].decode().strip().rpartition("data: ")
    assert kind == ("event: error\n" if path == "/v1/messages" else "")
    assert json.loads(said)["error"]["message"] == "No such grammar."


def test_the_app_may_say_it_itself_once_it_has_begun() -> None:
    assert played(START, EVENT, WRONG, OWN_WORD) == [START, EVENT, OWN_WORD]


def test_an_error_that_is_not_the_requests_passes() -> None:
    with pytest.raises(RuntimeError):
        played(START, EVENT, BROKEN_OFF)


def test_an_answer_passes_as_it_is() -> None:
    assert played(START, EVENT, EVENT) == [START, EVENT, EVENT]
