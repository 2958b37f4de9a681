"""Results come back by token or by the answer's id, and whatever is acknowledged is kept."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.errors import RegistryUnavailable, Unavailable
from adapters.experiments import Phase
from adapters.housekeeping import Housekeeping
from adapters.keys import KeyJournal
from adapters.registry import Registry
from serve.experiments import feedback as feedback_module
from serve.experiments.posted import Posted
from serve.experiments.store.base import MOST_OUTCOMES
from serve.experiments.token import Assignment, Tokens
from tests.serve.conftest import Publish, Server
from tests.serve.experiments.conftest import ARMS, EXPERIMENT, Counting, Kept

PATH = "/v1/feedback"
SOLVED = {"metric": "solved", "value": True}


def post(server: Server, content: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(content, bytes):
        return server.ask("POST", PATH, content=content, headers=named)
    return server.ask("POST", PATH, json=content, headers=named)


def error(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


@pytest.fixture
def server(counting: Counting, phase: Phase) -> Server:
    return counting()


@pytest.fixture
def token(server: Server) -> str:
    """Of an answer to ann."""
    reply = server.chat("support", content={"user": "ann"}, headers={"x-request-id": "r-1"})
    return str(reply.headers["x-assignment"])


def signed(kept: Kept, **changed: Any) -> str:
    """Return a token that verifies, whatever it says."""
    plain = {"experiment": EXPERIMENT, "phase": 1, "arm": "v1", "unit": "5f" * 16}
    said = {**plain, "request_id": "r", "expires_at_s": int(time.time()) + 1000}
    return kept.tokens.sign(Assignment(**{**said, **changed}))


def test_an_outcome_is_kept_under_what_the_token_says(
    server: Server, kept: Kept, token: str
) -> None:
    before = time.time()
    reply = post(server, {**SOLVED, "token": token, "comment": "schön 🦊"})
    assert reply.status_code == 200
    assert reply.json() == {"object": "feedback", "results": [{"status": "recorded"}]}
    (outcome,), (exposure,) = kept.outcomes(), kept.exposures()
    for name in ("experiment", "phase", "arm", "unit", "request_id"):
        assert getattr(outcome, name) == getattr(exposure, name)
    assert (outcome.metric, outcome.value, outcome.comment) == ("solved", True, "schön 🦊")
    assert (outcome.key, outcome.late) == ("solved", False)
    assert before <= outcome.at_s <= time.time()
    assert kept.counted("recorded") == 1


@pytest.mark.parametrize("value", [True, False, 0, 4, 4.5, -1e9, "happy"])
def test_a_number_a_boolean_or_a_label(
    server: Server, kept: Kept, token: str, value: object
) -> None:
    assert post(server, {"metric": "mood", "value": value}, x_assignment=token).status_code == 200
    (outcome,) = kept.outcomes()
    assert outcome.value == value
    assert isinstance(outcome.value, bool) == isinstance(value, bool)


def test_repeated_it_stands_once_and_another_value_is_a_conflict(
    server: Server, kept: Kept, token: str
) -> None:
    told = [post(server, {**SOLVED, "token": token}).json()["results"][0] for _ in range(3)]
    assert told == [{"status": "recorded"}, {"status": "repeated"}, {"status": "repeated"}]
    other = post(server, {"metric": "solved", "value": False, "token": token})
    assert error(other) == (409, "conflict")
    keyed = {"metric": "solved", "value": False, "token": token, "idempotency_key": "second"}
    assert post(server, keyed).status_code == 200
    assert [each.value for each in kept.outcomes()] == [True, False]
    assert [kept.counted(status) for status in ("recorded", "repeated", "refused")] == [2, 2, 1]


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/v1/chat/completions", "chatcmpl-"),
        ("/v1/chat/completions/batch", "chatcmpl-"),
        ("/v1/completions", "cmpl-"),
        ("/v1/messages", "chatcmpl-"),
        ("/v1/embeddings", ""),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_by_the_answers_id_on_every_endpoint(
    server: Server, kept: Kept, path: str, prefix: str, restarted: bool
) -> None:
    headers = {"x-request-id": "chatcmpl-r/1"}
    server.ask("POST", path, json={"model": "support", "user": "ann"}, headers=headers)
    (exposure,) = kept.exposures()
    if restarted:
        kept.recording._recent.clear()
    assert post(server, {**SOLVED, "id": f"{prefix}chatcmpl-r/1"}).status_code == 200
    (outcome,) = kept.outcomes()
    assert (outcome.unit, outcome.request_id) == (exposure.unit, "chatcmpl-r/1")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_response_by_its_own_id(server: Server, kept: Kept, restarted: bool) -> None:
    reply = server.ask("POST", "/v1/responses", json={"model": "support", "user": "ann"})
    assert len(kept.exposures()) == 1
    if restarted:
        kept.recording._recent.clear()
    response = reply.json()["echo"]["request_id"]
    assert post(server, {**SOLVED, "id": response}).status_code == 200
    assert kept.outcomes()[0].request_id == response


def test_an_id_counts_although_its_exposure_is_still_on_its_way(server: Server, kept: Kept) -> None:
    server.chat("support", headers={"x-request-id": "r-1"})
    kept.recording._recent.clear()
    assert post(server, {**SOLVED, "id": "chatcmpl-r-1"}).status_code == 200


def test_an_id_that_nobody_counted(server: Server) -> None:
    server.chat("support@v1", headers={"x-request-id": "pinned"})
    for unknown in ("chatcmpl-pinned", "resp_0", "x" * 5000, "🦊", "a\0b"):
        reply = post(server, {**SOLVED, "id": unknown})
        assert error(reply) == (404, "not_found")
        assert reply.json()["error"]["param"] is None


def test_tokens_that_are_none_of_ours(server: Server, kept: Kept, token: str) -> None:
    head, _, mac = token.rpartition(".")
    foreign = Tokens(keys=["f" * 64]).sign(kept.tokens.verify(token))
    for forged in ("nonsense", token[:-2] + "AA", f"{head[:-4]}AAAA.{mac}", foreign, "x" * 100_000):
        assert error(post(server, {**SOLVED, "token": forged})) == (400, "invalid_token")
    over = signed(kept, expires_at_s=int(time.time()) - 1)
    assert error(post(server, {**SOLVED, "token": over})) == (400, "expired_token")
    assert kept.outcomes() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"experiment": "support/ab-9"}, (404, "not_found")),
        ({"experiment": "nobody/ab-1"}, (404, "not_found")),
        ({"experiment": "../x/ab-1"}, (404, "not_found")),
        ({"experiment": "support"}, (404, "not_found")),
        ({"phase": 2}, (400, "invalid_token")),
        ({"phase": 0}, (400, "invalid_token")),
        ({"arm": "v9"}, (400, "invalid_token")),
        ({"arm": "base"}, (400, "invalid_token")),
    ],
)
def test_tokens_of_ours_that_say_what_never_was(
    server: Server, kept: Kept, changed: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert error(post(server, {**SOLVED, "token": signed(kept, **changed)})) == expected
    assert kept.outcomes() == []


def test_after_the_experiment_stopped_it_is_late(
    server: Server, kept: Kept, registry: Registry, token: str
) -> None:
    registry.pause_experiment("support")
    assert post(server, {**SOLVED, "token": token}).json()["results"] == [{"status": "recorded"}]
    registry.stop_experiment("support")
    late = {"metric": "stars", "value": 5, "token": token}
    for _ in range(2):  # the second time it is known
        assert post(server, {**late, "idempotency_key": str(_)}).json()["results"] == [
            {"status": "late"}
        ]
    assert [each.late for each in kept.outcomes()] == [False, True, True]
    assert error(post(server, {**SOLVED, "token": signed(kept, phase=9)})) == (400, "invalid_token")
    registry.start_experiment("support", ARMS)
    assert post(server, {**late, "idempotency_key": "2"}).json()["results"] == [{"status": "late"}]


def test_another_server_may_know_a_later_phase(
    counting: Counting, phase: Phase, kept: Kept, registry: Registry
) -> None:
    server = counting()
    stale = kept.feedback._snapshot()
    kept.feedback._snapshot = lambda: stale
    registry.ramp_experiment("support", {"v1": 10, "v2": 90})
    reply = post(server, {**SOLVED, "token": signed(kept, phase=2)})
    assert reply.json()["results"] == [{"status": "recorded"}]


def test_a_batch_is_told_one_by_one(server: Server, kept: Kept, token: str) -> None:
    entries = [
        {**SOLVED, "token": token},
        {"metric": "stars", "value": 4},
        {**SOLVED, "token": "forged"},
        {**SOLVED, "id": "chatcmpl-nobody"},
        {"metric": "Stars!", "value": 4},
        {"metric": "latency_ms", "value": 4},
        "nonsense",
        {**SOLVED, "token": token},
        {"metric": "solved", "value": False, "id": "chatcmpl-r-1"},
    ]
    reply = post(server, {"outcomes": entries}, x_assignment=token)
    assert reply.status_code == 200
    told = [each.get("error", {}).get("code", each["status"]) for each in reply.json()["results"]]
    assert told == [
        *("recorded", "recorded", "invalid_token", "not_found", "usage_error", "usage_error"),
        *("usage_error", "repeated", "conflict"),
    ]
    assert all(each["status"] == "refused" for each in reply.json()["results"] if "error" in each)
    assert [each.metric for each in kept.outcomes()] == ["solved", "stars"]
    assert kept.counted("refused") == 6


def test_the_largest_batch_and_none(server: Server, kept: Kept, token: str) -> None:
    most = [{**SOLVED, "idempotency_key": str(n)} for n in range(MOST_OUTCOMES)]
    reply = post(server, {"outcomes": most}, x_assignment=token)
    assert reply.json()["results"] == [{"status": "recorded"}] * MOST_OUTCOMES
    assert post(server, {"outcomes": [*most, most[0]]}, x_assignment=token).status_code == 400
    for wrong in ([], None, "x", {}):
        assert post(server, {"outcomes": wrong}).status_code == 400
    assert post(server, {"outcomes": most[:1], "token": token}).status_code == 400


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"metric": "solved", "value": NaN}',
        b'{"metric": "solved", "value": Infinity}',
        b'{"metric": "solved", "value": 1e999}',
        b'{"metric": "solved", "value": 99999999999999999999999}',
        b'{"metric": "solved", "value": 1e-200}',
        b'{"metric": "solved", "value": null}',
        b'{"metric": "solved", "value": [1]}',
        b'{"metric": "solved", "value": ""}',
        b'{"metric": "solved", "value": "\\ud83d"}',
        b'{"metric": "solved", "value": "a\\u0000b"}',
        b'{"metric": "solved"}',
        b'{"value": true}',
        b'{"metric": 7, "value": true}',
        b'{"metric": "../solved", "value": true}',
        b'{"metric": "error", "value": true}',
        b'{"metric": "solved", "value": true, "comment": 7}',
        b'{"metric": "solved", "value": true, "rating": 5}',
        b'{"metric": "solved", "value": true, "token": 7}',
        b'{"metric": "solved", "value": true, "token": "a", "id": "b"}',
    ],
)
def test_what_is_no_outcome_is_a_400_that_says_why(
    server: Server, kept: Kept, token: str, content: bytes
) -> None:
    reply = post(server, content, x_assignment=token)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert len(reply.json()["error"]["message"]) > 20
    assert kept.outcomes() == []


def test_texts_that_are_too_long_and_a_body_that_is(server: Server, kept: Kept, token: str) -> None:
    for field, most in (("comment", 4000), ("idempotency_key", 200), ("value", 200)):
        fits = {**SOLVED, "idempotency_key": f"fits {field}", "token": token, field: "x" * most}
        assert post(server, fits).status_code == 200
        reply = post(server, {**fits, field: "x" * (most + 1)})
        assert reply.status_code == 400
        assert f"{most:,} is the most" in reply.json()["error"]["message"]
    assert post(server, {**SOLVED, "comment": "x" * (3 << 20)}).status_code == 413
    assert len(kept.outcomes()) == 3


def test_nothing_says_which_answer(server: Server) -> None:
    reply = post(server, SOLVED)
    assert reply.status_code == 400
    assert "which answer" in reply.json()["error"]["message"]


def test_only_posted(server: Server) -> None:
    assert server.ask("GET", PATH).status_code == 405


@pytest.mark.parametrize("role", ["infer", "feedback"])
def test_a_key_posts_for_what_it_sees_and_the_rest_is_not_there(
    counting: Counting,
    kept: Kept,
    registry: Registry,
    phase: Phase,
    publish: Publish,
    tmp_path: Path,
    role: Any,
) -> None:
    publish("tone")
    journal = KeyJournal(tmp_path / "keys.jsonl")
    _, sees = journal.create("sees", allow=["support"], role=role)
    _, other = journal.create("other", allow=["tone"], role=role)
    _, admin = journal.create("admin", role="admin")
    server = counting(journal=journal)
    headers = {"authorization": f"Bearer {admin}", "x-request-id": "r-1"}
    token = server.chat("support", headers=headers).headers["x-assignment"]
    named = [{"token": token}, {"id": "chatcmpl-r-1"}]
    missing = [{"token": signed(kept, experiment="nobody/ab-1")}, {"id": "chatcmpl-r-2"}]
    for there, gone in zip(named, missing, strict=True):
        unseen = post(server, {**SOLVED, **there}, authorization=f"Bearer {other}")
        absent = post(server, {**SOLVED, **gone}, authorization=f"Bearer {sees}")
        assert unseen.status_code == absent.status_code == 404
        assert unseen.text.replace("r-1", "r-2") == absent.text
    assert kept.outcomes() == []
    assert post(server, {**SOLVED, **named[0]}, authorization=f"Bearer {sees}").status_code == 200
    assert post(server, SOLVED, authorization="Bearer nobody").status_code == 401
    if role == "feedback":
        reply = server.chat("support", headers={"authorization": f"Bearer {sees}"})
        assert reply.status_code == 403


def test_of_an_adapter_that_was_deleted_nothing_is_left(
    server: Server, kept: Kept, registry: Registry, token: str
) -> None:
    registry.stop_experiment("support")
    keeper = Housekeeping.open(registry.location)
    registry.demote("support", "production", confirmed=True)
    for ref in ("support@v1", "support@v2"):
        keeper.delete(ref)
    assert error(post(server, {**SOLVED, "token": token})) == (404, "not_found")


class Away:
    """A store whose database is gone."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def record(self, batch: Any) -> Any:
        self.open.wait(20)
        raise Unavailable("postgresql+psycopg://ann:***@db.internal: gone.", fix="Start it.")

    def exposure(self, request_id: str) -> Any:
        return self.record(())


def test_a_database_that_is_gone_acknowledges_nothing_and_says_when_to_come_back(
    server: Server, kept: Kept, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept.turn_to(Away())
    for content in ({**SOLVED, "token": token}, {"outcomes": [{**SOLVED, "token": token}]},
                    {**SOLVED, "id": "unknown"}):  # fmt: skip
        reply = post(server, content)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) == 1
        assert "db.internal" not in reply.text, "clients are not told where it is"
    assert caplog.text.count("db.internal") == 1
    assert server.chat("support", content={"user": "ann"}).status_code == 200
    kept.turn_to(kept.store)
    assert post(server, {**SOLVED, "token": token}).json()["results"] == [{"status": "recorded"}]


def test_while_the_store_hangs_few_wait_and_answers_go_on(
    server: Server, kept: Kept, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_module, "_MOST_WAITING", 8)
    hanging = Away()
    hanging.open.clear()
    kept.turn_to(hanging)
    threading.Timer(0.5, hanging.open.set).start()
    chat = ("POST", "/v1/chat/completions", {"json": {"model": "support", "messages": []}})
    posts = [("POST", PATH, {"json": {**SOLVED, "token": token}})] * 20
    began = time.monotonic()
    replies = server.ask_all([*posts, chat])
    assert [each.status_code for each in replies] == [503] * 20 + [200]
    assert sum("Too many" in each.text for each in replies) == 12
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("where", ["keys", "registry"])
def test_what_cannot_be_checked_now_is_not_refused_for_good(
    server: Server,
    kept: Kept,
    registry: Registry,
    token: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: object) -> Any:
        raise RegistryUnavailable("The disk is gone.", fix="Mount it.")

    registry.stop_experiment("support")
    with monkeypatch.context() as patched:
        if where == "keys":
            patched.setattr(kept.tokens, "verify", gone)
        else:
            patched.setattr(kept.feedback._registry, "experiments", gone)
        assert post(server, {**SOLVED, "token": token}).status_code == 503
    assert post(server, {**SOLVED, "token": token}).json()["results"] == [{"status": "late"}]


def test_a_clock_that_goes_backwards_loses_nothing(
    server: Server, kept: Kept, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_module.time, "time", lambda: 5.0)
    assert post(server, {**SOLVED, "token": token}).json()["results"] == [{"status": "recorded"}]
    server.chat("support", content={"user": "ann"})
    (outcome,), exposures = kept.outcomes(), kept.exposures()
    assert outcome.at_s == 5.0
    assert [each.at_s > 5 for each in exposures] == [True, False]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("chatcmpl-r", ("r", "chatcmpl-r")),
        ("cmpl-r", ("r", "cmpl-r")),
        ("resp_r", ("resp_r",)),
        ("r", ("r",)),
        ("chatcmpl-cmpl-r", ("cmpl-r", "chatcmpl-cmpl-r")),
    ],
)
def test_what_an_answers_id_says_of_its_request(given: str, expected: tuple[str, ...]) -> None:
    assert Posted("m", True, "", "", "", given).request_ids() == expected


def test_it_is_in_the_document_with_its_form(server: Server) -> None:
    document = server.ask("GET", "/openapi.json").json()
    body = document["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
    single, batch = body["schema"]["anyOf"]
    assert batch["properties"]["outcomes"]["maxItems"] == MOST_OUTCOMES
    assert {"metric", "value"} == set(single["required"])
    assert json.dumps(document)
