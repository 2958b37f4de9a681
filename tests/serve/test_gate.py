"""What a request becomes on its way to the engine, and what it may not be."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version
from serve.http.body import Limits
from tests.serve.conftest import FOREIGN, MakeServer, Publish

ENDPOINTS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_model_becomes_the_engine_name_and_nothing_else_changes(
    serve: MakeServer, support: tuple[Version, Version], path: str
) -> None:
    content = {
        "model": "support",
        "messages": [{"role": "user", "content": "größer 🦊 \u2028"}],
        "temperature": 0.1,
        "seed": 2**62,
        "unknown": {"nested": [None, True, 1.0, 1e-9]},
    }
    reply = serve().ask("POST", path, content=json.dumps(content).encode())
    assert reply.json() == {
        "model": support[0].engine_name,
        "path": path,
        "echo": content | {"model": support[0].engine_name},
    }
    assert reply.headers["x-adapter"] == support[0].engine_name
    assert "x-adapter-arm" not in reply.headers


def test_the_base_under_any_of_its_names(serve: MakeServer) -> None:
    for name in ("small", "small-alias"):
        reply = serve().chat(name)
        assert (reply.json()["model"], reply.headers["x-adapter"]) == ("small", "small")


@pytest.mark.parametrize("model", [None, "", 7, 7.5, True, ["support"], {"a": 1}])
def test_a_model_that_is_no_name(serve: MakeServer, model: object) -> None:
    reply = serve().chat(model)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "model"
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_no_model_at_all(serve: MakeServer) -> None:
    reply = serve().ask("POST", "/v1/chat/completions", json={"messages": []})
    assert reply.status_code == 400
    assert "missing" in reply.json()["error"]["message"]


def test_an_unknown_adapter_is_openais_404_and_never_reaches_the_engine(
    serve: MakeServer, support: tuple[Version, Version]
) -> None:
    server = serve()
    reply = server.chat("suport")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"
    assert "support" in reply.json()["error"]["message"]
    assert server.engine.loads == []


def test_anthropics_endpoints_get_anthropics_errors(serve: MakeServer) -> None:
    reply = serve().ask("POST", "/v1/messages", json={"model": "nobody"})
    assert reply.status_code == 404
    assert reply.json()["type"] == "error"
    assert reply.json()["error"]["type"] == "not_found_error"


def test_a_version_of_another_base_is_a_400(serve: MakeServer, publish: Publish) -> None:
    publish("stranger", FOREIGN)
    reply = serve().chat("stranger")
    assert reply.status_code == 400
    assert "another/base" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"model": NaN}',
     b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nsmall\r\n--x--'],
)  # fmt: skip
def test_a_body_that_is_no_json_object(serve: MakeServer, content: bytes) -> None:
    reply = serve().ask("POST", "/v1/chat/completions", content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_the_last_of_two_models_counts_for_routing_and_engine_alike(
    serve: MakeServer, support: tuple[Version, Version]
) -> None:
    content = b'{"model": "small", "model": "support"}'
    reply = serve().ask("POST", "/v1/completions", content=content)
    assert reply.json()["echo"] == {"model": support[0].engine_name}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"model": "small", "seed": 9223372036854775808}', "64 bits"),
        (b'{"model": "small", "top_k": -9223372036854775809}', "64 bits"),
        (b'{"model": "small", "stop": "\\ud83d"}', "half a character"),
        (b'{"model": "small", "\\udc00": 1}', "half a character"),
        (b'{"model": "small", "stop": "\xed\xa0\x80"}', "half a character"),
    ],
)
def test_what_the_engine_cannot_be_told(serve: MakeServer, content: bytes, said: str) -> None:
    reply = serve().ask("POST", "/v1/chat/completions", content=content)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]


def test_long_numbers_in_texts_and_whole_characters_are_let_through(serve: MakeServer) -> None:
    digits = "9" * 20
    content = rb'{"model": "small", "seed": 9223372036854775807, "stop": ["%b", "\ud83d\ude00"]}'
    content %= digits.encode()
    reply = serve().ask("POST", "/v1/chat/completions", content=content)
    assert reply.json()["echo"]["stop"] == [digits, "\N{GRINNING FACE}"]


def test_a_null_says_nothing_in_responses(serve: MakeServer) -> None:
    content = {"model": "small", "background": None, "input": [None]}
    reply = serve().ask("POST", "/v1/responses", json=content)
    assert reply.json()["echo"] == {"model": "small", "input": [None]}
    assert "background" in serve().chat("small", content=content).json()["echo"]


def test_a_body_too_large(serve: MakeServer) -> None:
    server = serve(limits=Limits(size_bytes=1000))
    assert server.chat("small", content={"messages": ["x" * 800]}).status_code == 200
    assert server.chat("small", content={"messages": ["x" * 1000]}).status_code == 413


def _call(app: Any, messages: list[dict[str, Any]], **scope: Any) -> list[dict[str, Any]]:
    """Speak ASGI by hand: after `messages` the client stays silent."""
    sent: list[dict[str, Any]] = []

    async def play() -> None:
        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        plain = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        await app(plain | scope, receive, send)

    asyncio.run(play())
    return sent


def test_a_body_that_does_not_arrive(serve: MakeServer) -> None:
    server = serve(limits=Limits(read_timeout_s=0.05))
    half = {"type": "http.request", "body": b'{"model":', "more_body": True}
    assert _call(server.app, [half])[0]["status"] == 408


def test_a_client_that_leaves_is_not_answered(serve: MakeServer) -> None:
    half = {"type": "http.request", "body": b'{"model":', "more_body": True}
    assert _call(serve().app, [half, {"type": "http.disconnect"}]) == []


def test_the_app_sees_a_true_length_and_the_clients_own_messages_after_the_body(
    serve: MakeServer, support: tuple[Version, Version]
) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        seen["headers"], seen["body"] = scope["headers"], message["body"]
        seen["after"] = await receive()

    server = serve()
    server.chat("support")  # loaded, so that nothing is waited for while the client leaves
    server.app._app = app
    body = b'{"model":"support"}'
    messages = [
        {"type": "http.request", "body": body[:9], "more_body": True},
        {"type": "http.request", "body": body[9:], "more_body": False},
        {"type": "http.disconnect"},
    ]
    headers = [(b"transfer-encoding", b"chunked"), (b"content-length", b"19"), (b"a", b"b")]
    _call(server.app, messages, headers=headers)
    lengths = [value for key, value in seen["headers"] if key == b"content-length"]
    assert lengths == [str(len(seen["body"])).encode()]
    assert b"transfer-encoding" not in dict(seen["headers"])
    assert (b"a", b"b") in seen["headers"]
    assert seen["after"] == {"type": "http.disconnect"}


def test_a_stream_passes_chunk_by_chunk(
    serve: MakeServer, support: tuple[Version, Version]
) -> None:
    chunks = [
        {"type": "http.response.start", "status": 200, "headers": [(b"x-adapter", b"forged")]},
        {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True},
        {"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for chunk in chunks:
            await send(chunk)

    server = serve()
    server.app._app = app
    sent = _call(server.app, [{"type": "http.request", "body": b'{"model":"support"}'}])
    assert sent[1:] == chunks[1:]
    adapters = [value for key, value in sent[0]["headers"] if key == b"x-adapter"]
    assert adapters == [support[0].engine_name.encode()]


def test_an_experiment_is_sticky_by_user_then_session_and_says_its_arm(
    serve: MakeServer, registry: Registry, support: tuple[Version, Version]
) -> None:
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    server = serve()

    def arm(*, user: object = None, session: str | None = None, **content: Any) -> str:
        headers = {"x-session-id": session} if session else {}
        content |= {"user": user} if user is not None else {}
        reply = server.chat("support", content=content, headers=headers)
        versions = {"v1": support[0].engine_name, "v2": support[1].engine_name}
        assert reply.headers["x-adapter"] == versions[reply.headers["x-adapter-arm"]]
        assert reply.headers["x-adapter-experiment"] == "ab-1"
        return str(reply.headers["x-adapter-arm"])

    users = [f"user-{number}" for number in range(16)]
    by_user = [arm(user=user) for user in users]
    assert set(by_user) == {"v1", "v2"}
    assert [arm(user=user, session="other") for user in users] == by_user
    assert [arm(session=user) for user in users] == by_user
    assert [arm(metadata={"user_id": user}) for user in users] == by_user
    assert [arm(user=7, session=user) for user in users] == by_user, "no user: the session"
    assert {arm() for _ in range(40)} == {"v1", "v2"}, "neither: each request for itself"
    pinned = server.chat("support@v1", content={"user": users[0]})
    assert "x-adapter-arm" not in pinned.headers


def test_the_request_id_is_the_clients_or_a_new_one(serve: MakeServer) -> None:
    server = serve()
    assert server.chat("small", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    made = [server.chat("small").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert len(server.chat("x", headers={"x-request-id": "y" * 500}).headers["x-request-id"]) == 32


def test_other_methods_are_the_apps_own_business(serve: MakeServer) -> None:
    reply = serve().ask("GET", "/v1/chat/completions")
    assert reply.json()["path"] == "/v1/chat/completions"
