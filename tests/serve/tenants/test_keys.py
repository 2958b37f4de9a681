"""Keys at a running server: who comes in, for what, how often, and from when on no more."""

from __future__ import annotations

import asyncio
import json
import time
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.errors import Unavailable, UsageError
from adapters.keys import KeyJournal
from adapters.types import Version
from serve.machine import check_exposure
from serve.tenants.keys import Keys
from serve.tenants.rates import Allowance
from tests.serve.conftest import MakeServer, Server
from tests.waiting import wait

CHAT = "/v1/chat/completions"


@pytest.fixture
def journal(tmp_path: Path) -> KeyJournal:
    return KeyJournal(tmp_path / "keys.jsonl")


@pytest.fixture(autouse=True)
def _nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was spent, however long a test takes."""
    standing = partial(Allowance, clock=lambda: 0.0)
    monkeypatch.setattr("serve.tenants.caller.Allowance", standing)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def ask(server: Server, secret: str, model: str = "support", **content: Any) -> httpx.Response:
    return server.chat(model, content=content, headers=bearer(secret))


def test_a_running_server_follows_keys(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    server = serve(journal=journal)
    keys = server.app._keys
    with keys:
        assert ask(server, "none").status_code == 200, "no keys, no questions"
        _, secret = journal.create("web", allow=["support"])
        wait(lambda: ask(server, "none").status_code == 401)
        assert ask(server, secret).status_code == 200
        assert server.ask("GET", "/v1/models", headers={"x-api-key": secret}).status_code == 200
        journal.revoke("web")
        wait(lambda: ask(server, secret).status_code == 401)
        assert ask(server, "none").status_code == 401, "and nobody else comes in again"
        journal.path.unlink()
        time.sleep(0.6)
        assert ask(server, "none").status_code == 401
        _, again = journal.create("web", allow=["support"])
        wait(lambda: ask(server, again).status_code == 200)


def test_a_file_that_cannot_be_understood_changes_nothing_for_those_who_are_in(
    serve: MakeServer,
    support: tuple[Version, Version],
    journal: KeyJournal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, secret = journal.create("web", allow=["support"])
    server = serve(journal=journal)
    with server.app._keys:
        with journal.path.open("a") as stream:
            stream.write("{\n")
        wait(lambda: "as they were before" in caplog.text)
        assert ask(server, secret).status_code == 200
        assert ask(server, "none").status_code == 401
    with pytest.raises(Unavailable):
        Keys([], KeyJournal(journal.path))


def test_a_key_expires_without_anybody_doing_anything(
    serve: MakeServer,
    support: tuple[Version, Version],
    journal: KeyJournal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, secret = journal.create("web", allow=["support"], expires="1h")
    server = serve(journal=journal)
    assert ask(server, secret).status_code == 200

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(UTC) + timedelta(hours=1)

    monkeypatch.setattr("serve.tenants.keys.datetime", Later)
    reply = ask(server, secret)
    assert reply.status_code == 401
    assert "expired" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("role", "opened"),
    [
        (
            "infer",
            {"/v1/adapters": 403, "/v1/models": 200, CHAT: 200, "/metrics": 403, "/adapters": 404},
        ),
        (
            "feedback",
            {"/v1/adapters": 403, "/v1/models": 403, CHAT: 403, "/metrics": 403, "/adapters": 404},
        ),
        (
            "admin",
            {"/v1/adapters": 200, "/v1/models": 200, CHAT: 200, "/metrics": 200, "/adapters": 404},
        ),
    ],
)
def test_a_role_opens_its_paths(
    serve: MakeServer,
    support: tuple[Version, Version],
    journal: KeyJournal,
    role: Any,
    opened: dict[str, int],
) -> None:
    _, secret = journal.create("web", role=role, allow=[] if role == "admin" else ["*"])
    server = serve(journal=journal)
    opened = opened | {"/v1/adapters": 200 if role == "admin" else 403}
    for path, status in opened.items():
        if path == CHAT:
            reply = ask(server, secret)
        else:
            reply = server.ask("GET", path, headers=bearer(secret))
        assert reply.status_code == status, path
        if status == 403:
            assert reply.json()["error"]["code"] == "insufficient_permissions"
            assert "www-authenticate" not in reply.headers


def test_the_flags_key_is_an_admins_beside_those_of_the_file(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    journal.create("web", allow=["nothing"], rpm=1)
    server = serve(keys=["flag"], journal=journal)
    for _ in range(3):
        reply = ask(server, "flag", cache_salt="mine")
        assert reply.status_code == 200
        assert reply.json()["echo"]["cache_salt"] == "mine"
        assert not any(name.startswith("x-ratelimit") for name in reply.headers)


def test_metrics_are_open_where_so_chosen(journal: KeyJournal, serve: MakeServer) -> None:
    journal.create("web", allow=["*"])
    server = serve(journal=journal)
    assert server.ask("GET", "/metrics").status_code == 401
    server.app._keys = Keys([], journal, open_metrics=True)
    assert server.ask("GET", "/metrics").status_code == 200


def test_too_many_requests(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    _, secret = journal.create("web", allow=["support"], rpm=2)
    _, other = journal.create("other", allow=["support"], rpm=2)
    server = serve(journal=journal)
    first = ask(server, secret)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert ask(server, secret, "nothing").headers["x-ratelimit-remaining-requests"] == "0"
    reply = ask(server, secret)
    assert reply.status_code == 429
    assert reply.json()["error"]["type"] == "requests"
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert reply.headers["retry-after"] == "30"
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    anthropic = server.ask("POST", "/v1/messages", json={}, headers={"x-api-key": secret})
    assert (anthropic.status_code, anthropic.json()["type"]) == (429, "error")
    assert anthropic.json()["error"]["type"] == "rate_limit_error"
    assert ask(server, other).status_code == 200, "each key for itself"
    journal.create("third", allow=["*"])
    server.app._keys._look()
    assert ask(server, secret).status_code == 429, "another key made changes nothing for this one"
    assert server.ask("GET", "/health", headers=bearer(secret)).status_code == 200


def _answering(server: Server, answer: object, status: int = 200) -> None:
    from serve.http.asgi import send_json

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send_json(send, status, answer)

    server.app._app = app


def test_tokens_are_charged_as_the_answer_says(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    _, secret = journal.create("web", allow=["support"], tpm=1000)
    server = serve(journal=journal)

    def left() -> int:
        reply = server.ask("GET", "/v1/models", headers=bearer(secret))
        return int(reply.headers["x-ratelimit-remaining-tokens"])

    _answering(server, {"usage": {"prompt_tokens": 100, "completion_tokens": 200}})
    reply = ask(server, secret, max_tokens=800)
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) == 200, "held back while it runs"
    assert left() == 700
    _answering(server, {"error": {}}, status=500)
    ask(server, secret, max_tokens=600)
    assert left() == 700
    server.ask("POST", "/tokenize", json={"model": "support", "prompt": "x" * 9999},
               headers=bearer(secret))  # fmt: skip
    assert ask(server, secret, "hidden", max_tokens=600).status_code == 404
    assert left() == 700
    reply = ask(server, secret, max_tokens=900)
    assert (reply.status_code, reply.json()["error"]["type"]) == (429, "tokens")
    assert left() == 700
    _answering(server, {"usage": {"prompt_tokens": 0, "completion_tokens": 5000}})
    assert ask(server, secret, max_tokens=10).status_code == 200
    refused = ask(server, secret, max_tokens=1)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "259", "what was owed is paid back first"


def test_a_stream_is_charged_what_it_took(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    _, secret = journal.create("web", allow=["support"], tpm=1000)
    server = serve(journal=journal)
    allowance = next(iter(server.app._keys._callers.values())).allowance
    assert allowance
    reply = ask(server, secret, stream=True, max_tokens=50)
    assert b'"usage"' not in reply.content, "it did not ask for that"
    assert int(dict(allowance.headers())[b"x-ratelimit-remaining-tokens"]) == 948
    ask(server, secret, stream=True, max_tokens=600)
    assert ask(server, secret, stream=True, max_tokens=600).status_code == 429


def test_who_leaves_pays_for_what_was_reserved_or_for_what_came(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    _, secret = journal.create("web", allow=["support"], tpm=1000)
    server = serve(journal=journal)
    (allowance,) = [caller.allowance for caller in server.app._keys._callers.values()]
    assert allowance

    def left_after(sent: int) -> int:
        more = {"more_body": True}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(sent):
                await send({"type": "http.response.body", "body": b"data: {}\n\n"} | more)

        server.app._app = app
        body = json.dumps({"model": "support", "prompt": "x" * 40, "max_tokens": 300}).encode()
        scope = {"type": "http", "method": "POST", "path": "/v1/completions",
                 "headers": [(b"x-api-key", secret.encode())]}  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None: ...

        before = int(dict(allowance.headers())[b"x-ratelimit-remaining-tokens"])
        asyncio.run(server.app(scope, receive, send))  # type: ignore[arg-type]
        return before - int(dict(allowance.headers())[b"x-ratelimit-remaining-tokens"])

    assert left_after(0) == 310
    assert left_after(7) == 17


def test_many_at_once_cannot_run_far_over(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    _, secret = journal.create("web", allow=["support"], tpm=1000)
    server = serve(journal=journal)
    content = {"model": "support", "messages": [], "max_tokens": 300}
    request = ("POST", CHAT, {"json": content, "headers": bearer(secret)})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        body = b'{"usage": {"prompt_tokens": 10, "completion_tokens": 290}}'
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    server.app._app = app
    statuses = [reply.status_code for reply in server.ask_all([request] * 20)]
    assert statuses.count(200) == 3
    assert statuses.count(429) == 17


def test_a_version_that_is_not_admitted_costs_no_tokens(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    _, secret = journal.create("web", allow=["support"], tpm=1000)
    server = serve(journal=journal)
    server.engine.trouble = "out of memory"
    reply = ask(server, secret, max_tokens=900)
    assert reply.status_code == 503
    after = server.ask("GET", "/v1/models", headers=bearer(secret))
    assert after.headers["x-ratelimit-remaining-tokens"] == "1000"


def test_each_key_has_a_prefix_cache_of_its_own(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    secrets = [journal.create(name, allow=["*"])[1] for name in ("a", "b")]
    server = serve(journal=journal)

    def salt(secret: str, path: str = CHAT, **content: Any) -> Any:
        body = {"model": "support", **content}
        reply = server.ask("POST", path, json=body, headers=bearer(secret))
        return reply.json()["echo"].get("cache_salt", reply.status_code)

    a, b = secrets
    assert salt(a) == salt(a, "/v1/messages") == salt(a, "/v1/embeddings", input="x")
    assert salt(a, cache_salt="mine") == salt(a, cache_salt="mine")
    salts = [salt(a), salt(b), salt(a, cache_salt="mine"), salt(b, cache_salt="mine"),
             salt(a, cache_salt="yours"), salt(b, cache_salt=salt(a))]  # fmt: skip
    assert len(set(salts)) == 6, "nobody reaches another's, whatever they send"
    assert all(len(salt) == 64 and salt.isalnum() for salt in salts), "vLLM takes 128, no /"
    assert salt(a, "/tokenize") == 200, "no cache there"
    for wrong in ("", 7, ["x"]):
        reply = ask(server, a, cache_salt=wrong)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "cache_salt")
    server.app._keys = Keys([], journal, isolated=False)
    assert salt(a) == 200
    assert salt(a, cache_salt="mine") == "mine"


def test_a_stored_response_is_its_keys_alone(
    serve: MakeServer, support: tuple[Version, Version], journal: KeyJournal
) -> None:
    a, b = (journal.create(name, allow=["*"])[1] for name in ("a", "b"))
    server = serve(keys=["flag"], journal=journal)

    def respond(secret: str, **content: Any) -> httpx.Response:
        body = {"model": "support", "request_id": "resp_mine", **content}
        return server.ask("POST", "/v1/responses", json=body, headers=bearer(secret))

    given = respond(a).json()["echo"]["request_id"]
    assert given.startswith("resp_")
    assert given != respond(a).json()["echo"]["request_id"]
    foreign, missing = given, "resp_" + "0" * 64
    for response in (foreign, missing, "resp_mine"):
        for method, path in (("GET", ""), ("POST", "/cancel")):
            reply = server.ask(method, f"/v1/responses/{response}{path}", headers=bearer(b))
            assert reply.status_code == 404
            assert reply.json()["error"]["message"].replace(response, "X") == (
                "No response 'X'. Ask for one that this key was given."
            )
        assert respond(b, previous_response_id=response).status_code == 404
    assert respond(a, previous_response_id=given).status_code == 200
    assert server.ask("GET", f"/v1/responses/{given}", headers=bearer(a)).status_code == 200
    assert server.ask("GET", f"/v1/responses/{given}", headers=bearer("flag")).status_code == 200


def test_the_log_names_the_key_and_nothing_of_it(
    serve: MakeServer,
    support: tuple[Version, Version],
    journal: KeyJournal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key, secret = journal.create("web", allow=["support"])
    caplog.set_level("INFO")
    server = serve(keys=["flag"], journal=journal)
    for given in (secret, "flag", "wrong"):
        ask(server, given)
    lines = [vars(record) for record in caplog.records if record.name == "switchyard.access"]
    assert [line.get("key") for line in lines] == [key.id, None, None]
    said = caplog.text + str(lines)
    for word in (secret, key.sha256, "flag", "wrong", "web"):
        assert word not in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    check_exposure(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", None, "192.0.2.1", "host.invalid"])
def test_others_are_not_let_in_without_one(host: str | None) -> None:
    with pytest.raises(UsageError, match="Without a key") as refused:
        check_exposure(host)
    for way in ("adapters keys create", "--api-key", "--insecure"):
        assert way in refused.value.fix


def test_vllms_own_flags_are_seen_too_and_a_socket_in_the_file_system_is_no_others() -> None:
    from serve.launch import _keys
    from serve.settings import Settings

    def args(**given: Any) -> Namespace:
        return Namespace(**{"host": "127.0.0.1", "uds": None, "api_key": None} | given)

    settings = Settings("tiny")
    assert not _keys(settings, args()).needed
    assert not _keys(settings, args(host="0.0.0.0", uds="/run/it")).needed
    assert not _keys(replace(settings, insecure=True), args(host="0.0.0.0")).needed
    with pytest.raises(UsageError, match=r"0\.0\.0\.0"):
        _keys(settings, args(host="0.0.0.0"))
    vllms = args(host=None, api_key=["theirs", ""])
    assert _keys(settings, vllms).needed
    assert vllms.api_key is None, "vLLM's own check is out of the way"
    assert _keys(replace(settings, api_keys=("ours",)), args(host="::")).needed
    KeyJournal().create("web", allow=["*"])
    assert _keys(settings, args(host="0.0.0.0")).needed


def test_a_server_without_a_key_does_not_start_for_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from adapters.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["serve", "--base", "tiny", "--host", "0.0.0.0", "--port", "0"])
    assert ended.value.code == UsageError.exit_code
    assert "adapters keys create" in capsys.readouterr().err
