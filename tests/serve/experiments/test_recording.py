"""Requests that an experiment routes leave an exposure and take a token with them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import pytest

from adapters.experiments import Design
from adapters.housekeeping import Housekeeping
from adapters.registry import Registry
from adapters.types import Version
from serve.experiments import repeats
from serve.experiments.store.base import Exposure
from serve.experiments.store.units import stored
from serve.http.asgi import ASGIApp
from tests.serve.conftest import Server
from tests.serve.experiments.conftest import ARMS, Counting, Kept


def test_an_answer_is_an_exposure_with_all_that_the_server_saw(
    counting: Counting, kept: Kept, phase: Any
) -> None:
    before = time.time()
    reply = counting().chat(
        "support", content={"user": "ann", "stream": True, "max_tokens": 4},
        headers={"x-request-id": "r-1"},
    )  # fmt: skip
    (made,) = kept.exposures()
    assert made == Exposure(
        "support/ab-1",
        1,
        reply.headers["x-adapter-arm"],
        stored("ann", phase.salt),
        0.5,
        "r-1",
        made.at_s,
        latency_ms=made.latency_ms,
        ttft_ms=made.ttft_ms,
        prompt_tokens=2,
        output_tokens=4,
        source="user",
        id=made.id,
    )
    assert before <= made.at_s <= time.time()
    assert made.latency_ms is not None
    assert made.ttft_ms is not None
    assert 0 < made.ttft_ms < made.latency_ms < 60_000


def test_the_answer_bears_a_token_that_leads_back(
    counting: Counting, kept: Kept, phase: Any
) -> None:
    reply = counting().chat("support", headers={"x-session-id": "s-1"})
    (made,) = kept.exposures()
    said = kept.tokens.verify(reply.headers["x-assignment"])
    assert (said.experiment, said.phase, said.arm) == ("support/ab-1", 1, made.arm)
    assert (said.unit, said.request_id) == (stored("s-1", phase.salt), made.request_id)
    assert reply.headers["x-request-id"] == made.request_id
    assert said.expires_at_s - time.time() == pytest.approx(30 * 24 * 3600, abs=60)
    assert reply.headers["x-adapter-unit"] == "session"
    assert kept.recording.recent(made.request_id) == said


def test_without_anybody_named_each_request_is_a_unit_and_says_so(
    counting: Counting, kept: Kept, phase: Any
) -> None:
    server = counting()
    assert server.chat("support").headers["x-adapter-unit"] == "request"
    server.chat("support")
    made = kept.exposures()
    assert [each.source for each in made] == ["request", "request"]
    assert made[0].unit != made[1].unit
    assert not any(each.regenerate for each in made), "nobody can say who asks"


@pytest.mark.parametrize("model", ["small", "support@v1", "support@production"])
def test_what_no_experiment_decides_is_recorded_nowhere(
    counting: Counting, kept: Kept, phase: Any, model: str
) -> None:
    reply = counting().chat(model, content={"user": "ann"})
    assert reply.status_code == 200
    assert not reply.headers.keys() & {"x-assignment", "x-adapter-unit"}
    assert kept.exposures() == []


def test_who_was_listed_by_hand_counts_nowhere(
    counting: Counting, kept: Kept, registry: Registry
) -> None:
    registry.start_experiment("support", ARMS, design=Design(allow={"ann": "v2"}))
    reply = counting().chat("support", content={"user": "ann"})
    assert reply.headers["x-adapter-arm"] == "v2"
    assert "x-assignment" not in reply.headers
    assert kept.exposures() == []


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens"])
def test_what_computes_nothing_is_no_exposure(
    counting: Counting, kept: Kept, phase: Any, path: str
) -> None:
    reply = counting().ask("POST", path, json={"model": "support"})
    assert reply.headers["x-adapter-arm"] in ("v1", "v2")
    assert "x-assignment" not in reply.headers
    assert kept.exposures() == []


def test_a_change_of_shares_is_in_what_comes_after(
    counting: Counting, kept: Kept, phase: Any, registry: Registry
) -> None:
    server = counting()
    server.chat("support", content={"user": "ann"})
    registry.ramp_experiment("support", {"v1": 20, "v2": 80})
    reply = server.chat("support", content={"user": "ann"})
    first, second = kept.exposures()
    assert (first.phase, first.probability) == (1, 0.5)
    expected = {"v1": 0.2, "v2": 0.8}[reply.headers["x-adapter-arm"]]
    assert (second.phase, second.probability) == (2, expected)
    assert first.unit == second.unit
    registry.stop_experiment("support")
    assert "x-assignment" not in server.chat("support", content={"user": "ann"}).headers
    assert len(kept.exposures()) == 2


def test_a_response_has_an_id_of_its_own_and_goes_by_that(
    counting: Counting, kept: Kept, phase: Any
) -> None:
    server = counting()
    for given in ({}, {"request_id": "resp_mine"}, {"request_id": "resp_" + "x" * 5000}):
        reply = server.ask("POST", "/v1/responses", json={"model": "support", **given})
        engine = reply.json()["echo"]["request_id"]
        token = kept.tokens.verify(reply.headers["x-assignment"])
        expected = engine if len(engine) <= 128 else reply.headers["x-request-id"]
        assert kept.exposures()[-1].request_id == token.request_id == expected
        assert engine.startswith("resp_")
        assert given.items() <= reply.json()["echo"].items()


def answering(messages: list[dict[str, Any]], broken: bool = False) -> ASGIApp:
    """Return an app that says what it is told to."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages:
            await send(message)
        if broken:
            raise ValueError("cut off")

    return app


def answer(content: Any, status: int = 200) -> list[dict[str, Any]]:
    body = json.dumps(content).encode()
    return [
        {"type": "http.response.start", "status": status, "headers": []},
        {"type": "http.response.body", "body": body},
    ]


STREAM = [
    {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/event-stream")],
    },
    {
        "type": "http.response.body",
        "body": b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
        "more_body": True,
    },
]


def seen(server: Server, kept: Kept, app: ASGIApp, **content: Any) -> Exposure:
    server.app._app = app
    server.chat("support", content={"user": "ann", **content})
    return kept.exposures()[-1]


def test_how_it_ended_and_what_was_refused(counting: Counting, kept: Kept, phase: Any) -> None:
    server = counting()
    choice = {"message": {"content": "a", "refusal": "No."}, "finish_reason": "length"}
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    made = seen(server, kept, answering(answer({"choices": [choice], "usage": usage})))
    assert (made.finish_reason, made.refusal) == ("length", True)
    assert (made.prompt_tokens, made.output_tokens) == (3, 5)
    assert made.ttft_ms is None, "no stream, no first token"
    assert not made.error


@pytest.mark.parametrize("status", [400, 404, 429])
def test_what_the_client_got_wrong_is_no_error_and_has_no_times(
    counting: Counting, kept: Kept, phase: Any, status: int
) -> None:
    made = seen(counting(), kept, answering(answer({"error": {}}, status)))
    assert (made.error, made.latency_ms) == (False, None)
    assert (made.prompt_tokens, made.output_tokens) == (None, None)


def test_what_the_engine_got_wrong_is_an_error(counting: Counting, kept: Kept, phase: Any) -> None:
    server = counting()
    made = seen(server, kept, answering(answer({"error": {}}, 500)))
    assert (made.error, made.latency_ms) == (True, None)
    said = {"type": "http.response.body", "body": b'data: {"error": {"message": "no"}}\n\n'}
    assert seen(server, kept, answering([*STREAM, said])).error, "in the middle of a stream"


def test_an_answer_that_broke_off_is_an_error(counting: Counting, kept: Kept, phase: Any) -> None:
    server = counting()
    for messages in (STREAM, []):
        with pytest.raises(ValueError, match="cut off"):
            seen(server, kept, answering(messages, broken=True))
        made = kept.exposures()[-1]
        assert (made.error, made.latency_ms) == (True, None)


def test_a_version_that_cannot_be_loaded_is_its_arms_error(
    counting: Counting, kept: Kept, phase: Any
) -> None:
    server = counting()
    server.engine.trouble = "The engine is away."
    reply = server.chat("support", content={"user": "ann"})
    assert reply.status_code == 503
    (made,) = kept.exposures()
    assert (made.error, made.source) == (True, "user")


def test_a_version_that_was_found_damaged_is_its_arms_error(
    counting: Counting, kept: Kept, phase: Any, registry: Registry, support: tuple[Version, Version]
) -> None:
    weights = support[1].path / "adapter_model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    Housekeeping.open(registry.location).examine("support@v2", quarantine=True)
    server = counting()
    told = [server.chat("support", content={"user": f"user-{n}"}).status_code for n in range(8)]
    made = kept.exposures()
    assert set(told) == {200, 503}
    assert [each.error for each in made] == [status == 503 for status in told]
    assert {each.arm for each in made if each.error} == {"v2"}


def test_a_client_that_leaves_is_exposed_and_nobodys_error(
    counting: Counting, kept: Kept, phase: Any
) -> None:
    server = counting()
    server.chat("support", content={"user": "ann"})

    async def leaving() -> None:
        sent = asyncio.Event()

        async def stalling(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            for message in STREAM:
                await send(message)
            sent.set()
            assert (await receive())["type"] == "http.disconnect"

        async def receive() -> dict[str, Any]:
            if not sent.is_set() and not asked:
                asked.append(True)
                return {"type": "http.request", "body": body}
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None: ...

        asked: list[bool] = []
        body = b'{"model": "support", "user": "ann", "stream": true}'
        server.app._app = stalling
        path = "/v1/chat/completions"
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        await server.observed(scope, receive, send)

    asyncio.run(leaving())
    made = kept.exposures()[-1]
    assert (made.error, made.finish_reason) == (False, None)
    assert (made.prompt_tokens, made.output_tokens) == (None, 1), "vLLM did not say any more"
    assert made.latency_ms is not None, "for so long it waited"


def test_asked_again_is_told_until_it_is_long_ago(
    counting: Counting, kept: Kept, phase: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = counting()
    hello = [{"role": "user", "content": "Hello"}]

    def again(user: str = "ann", **content: Any) -> bool:
        server.chat("support", content={"user": user, "messages": hello, **content})
        return kept.exposures()[-1].regenerate

    assert [again(), again(), again(seed=7, temperature=1)] == [False, True, True]
    assert not again("ben")
    assert not again(messages=[*hello, *hello])
    assert again(messages=[*hello, *hello])
    monkeypatch.setattr(repeats, "_WITHIN_S", 0.0)
    assert not again()


def test_what_failed_and_is_tried_again_is_no_repeat(
    counting: Counting, kept: Kept, phase: Any
) -> None:
    server = counting()
    plain = server.app._app
    for app, expected in [(answering(answer({}, 500)), False), (plain, False), (plain, True)]:
        assert seen(server, kept, app).regenerate is expected


def test_few_questions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_MOST", 3)
    known = repeats.Repeats()
    for asked in (b"1", b"2", b"3", b"1", b"4"):
        known.answered(asked)
    assert [known.again(asked) for asked in (b"1", b"2", b"3", b"4")] == [True, False, True, True]


def test_requests_go_on_without_a_token_where_its_keys_cannot_be_read(
    counting: Counting, kept: Kept, phase: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = counting()
    assert kept.tokens.path
    away = kept.tokens.path.rename(kept.tokens.path.with_name("away"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            reply = server.chat("support", content={"user": "ann"})
            assert reply.status_code == 200
            assert "x-assignment" not in reply.headers
            assert reply.headers["x-adapter-unit"] == "user"
    assert len(kept.exposures()) == 3
    assert caplog.text.count("without a token") == 1
    assert kept.scraped.get_sample_value("switchyard_unsigned_assignments_total") == 3
    away.rename(kept.tokens.path)
    assert "x-assignment" in server.chat("support").headers


def test_what_became_of_exposures_is_counted(kept: Kept) -> None:
    kept.metrics.exposed(written=5, dropped=1, waiting=7)
    kept.metrics.exposed(written=8, dropped=1, waiting=0)
    scraped = kept.scraped.get_sample_value
    assert scraped("switchyard_exposures_total", {"outcome": "written"}) == 8
    assert scraped("switchyard_exposures_total", {"outcome": "dropped"}) == 1
    assert scraped("switchyard_exposures_waiting") == 0
