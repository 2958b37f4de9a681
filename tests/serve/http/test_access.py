"""Only the paths that are meant exist, and a key is asked for on all but two."""

from __future__ import annotations

import pytest

from serve.http.access import Kind, classify, keyless, opens
from serve.http.failures import RequestRefused
from serve.tenants.keys import Keys
from tests.serve.conftest import MakeServer

# Every route that vLLM 0.32 mounts for a generating base with our settings, as its own log lists
# them, but for those a client is meant to reach.
NOT_MEANT = [
    ("GET", "/load"),
    ("GET", "/kv_event_sources"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/v1/systemone"),
    ("GET", "/ping"),
    ("POST", "/ping"),
    ("POST", "/invocations"),
    ("POST", "/generative_scoring"),
    ("POST", "/scale_elastic_ep"),
    ("POST", "/is_scaling_elastic_ep"),
    ("POST", "/v1/chat/completions/render"),
    ("POST", "/v1/messages/render"),
    ("POST", "/v1/completions/render"),
    ("POST", "/v1/responses/render"),
    ("POST", "/v1/chat/completions/derender"),
    ("POST", "/v1/completions/derender"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/inference/v1/abort_requests"),
    ("POST", "/adapters"),
    ("DELETE", "/adapters/support"),
    # … and what its flags or its development mode would add.
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/server_info"),
    ("GET", "/tokenizer_info"),
    ("POST", "/start_profile"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/sleep"),
    ("POST", "/pause"),
    ("POST", "/update_weights"),
    ("POST", "/v1/audio/transcriptions"),
]
DISGUISED = [
    "/adapters/",
    "//adapters",
    "/v1//load_lora_adapter",
    "/v1/%6coad_lora_adapter",
    "/v1/responses/../load_lora_adapter",
    "/v1/responses/x/../../../adapters",
    "/v1/chat/completions/",
    "/V1/CHAT/COMPLETIONS",
    "/metrics/x",
    "/health/../adapters",
    "/nothing",
]
OPEN = ["/health", "/ready"]
KEYED = [
    ("GET", "/metrics"),
    ("GET", "/v1/adapters"),
    ("GET", "/v1/adapters/support@v1"),
    ("POST", "/v1/adapters/support@v1/load"),
    ("GET", "/version"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/small"),
    ("GET", "/v1/responses/resp_1"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/chat/completions/batch"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
]


@pytest.mark.parametrize(("method", "path"), NOT_MEANT)
def test_vllms_other_routes_do_not_exist(serve: MakeServer, method: str, path: str) -> None:
    server = serve()
    reply = server.ask(method, path, json={"model": "small"} if method == "POST" else None)
    assert reply.status_code == 404
    assert path in reply.json()["error"]["message"], "ours, not the app's behind"


@pytest.mark.parametrize("path", DISGUISED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_spelling_gets_around_it(serve: MakeServer, method: str, path: str) -> None:
    reply = serve().ask(method, path)
    assert reply.status_code == 404
    assert "echo" not in reply.json()


@pytest.mark.parametrize(
    ("method", "path"), [*NOT_MEANT, *KEYED, *(("POST", path) for path in DISGUISED)]
)
def test_with_a_key_set_everything_else_asks_for_it(
    serve: MakeServer, method: str, path: str
) -> None:
    server = serve(keys=["secret"])
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"},
                    {"x-api-key": "secret "}, {"authorization": "Bearer"}):  # fmt: skip
        reply = server.ask(method, path, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error"]["message"]


@pytest.mark.parametrize("path", OPEN)
def test_health_and_readiness_are_open(serve: MakeServer, path: str) -> None:
    assert serve(keys=["secret"]).ask("GET", path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer one"},
        {"authorization": "bearer two"},
        {"x-api-key": "two"},
        {"authorization": "Basic x", "x-api-key": "one"},
    ],
)
def test_any_key_opens_in_either_clients_header(serve: MakeServer, headers: dict[str, str]) -> None:
    server = serve(keys=["one", "two"])
    assert server.ask("GET", "/v1/models", headers=headers).status_code == 200


def test_without_keys_everybody_may_come_in(serve: MakeServer) -> None:
    assert serve().ask("GET", "/v1/models").status_code == 200


def test_a_websocket_is_closed_before_the_app_sees_it(serve: MakeServer) -> None:
    import asyncio

    sent: list[dict[str, object]] = []

    async def play() -> None:
        async def receive() -> dict[str, object]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
        await serve().app(scope, receive, send)

    asyncio.run(play())
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_a_preflight_needs_no_key_but_a_path_that_exists() -> None:
    scope = {"method": "OPTIONS", "headers": []}
    Keys(["secret"]).caller(Kind.ROUTED, scope)
    with pytest.raises(RequestRefused):
        Keys(["secret"]).caller(Kind.ROUTED, scope | {"method": "POST"})
    assert classify("/adapters") is Kind.DENIED


def test_every_kind_of_path_is_a_roles_or_an_admins_alone() -> None:
    """A path that is added is shut to other roles until it is opened to them here, too."""
    opened = {kind for kind in Kind if opens("infer", kind) or opens("feedback", kind)}
    infer = {Kind.MODELS, Kind.DOCUMENT, Kind.PLAIN, Kind.STORED, Kind.ROUTED, Kind.FEEDBACK}
    assert opened == infer | {Kind.DENIED}
    assert all(opens("admin", kind) for kind in Kind)
    assert {kind for kind in Kind if keyless(kind)} == {Kind.OPEN, Kind.READY}
