"""`/v1/experiments`: the verbs of `adapters ab` over HTTP, and for whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.keys import KeyJournal
from adapters.registry import Registry
from adapters.types import Version
from serve.experiments.control import Control
from serve.experiments.store.sql import SqlStore
from tests.serve.conftest import MakeServer, Server
from tests.serve.experiments.population import lived

PATH = "/v1/experiments"
NEW = {
    "adapter": "support",
    "arms": {"v1": 50, "v2": 50},
    "primary": "solved:effect=3%",
    "guardrails": ["error<=5%"],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    yield opened
    opened.close()


@pytest.fixture
def server(
    serve: MakeServer, registry: Registry, store: SqlStore, support: tuple[Version, Version]
) -> Server:
    return serve(control=Control(registry, store))


def post(server: Server, path: str, **content: Any) -> httpx.Response:
    return server.ask("POST", PATH + path, json=content)


def test_an_experiment_from_its_draft_to_its_end(server: Server, registry: Registry) -> None:
    created = post(server, "", **NEW, experiment="tone").json()
    assert (created["status"], created["adapter"], created["actor"]) == ("draft", "support", "http")
    assert created["design"]["metrics"][0]["effect"] == 0.03
    assert server.chat("support").headers.get("x-adapter-experiment") is None, "it is a draft"
    assert post(server, "/support/start").json()["status"] == "running"
    assert server.chat("support").headers["x-adapter-experiment"] == "tone"
    ramped = post(server, "/support/ramp", arms={"v1": "25%", "v2": 0.75}, reason="well").json()
    assert [arm["weight"] for arm in ramped["arms"]] == [0.25, 0.75]
    assert post(server, "/support/take-out", arm="v2").json()["arms"][1]["out"]
    assert server.chat("support").headers["x-adapter-arm"] == "v1"
    assert post(server, "/support/pause").json()["status"] == "paused"
    shown = server.ask("GET", f"{PATH}/support").json()
    assert server.ask("GET", PATH).json() == {"object": "list", "data": [shown]}
    assert post(server, "/support/stop", reason="enough").json()["status"] == "stopped"
    assert server.ask("GET", f"{PATH}/support").status_code == 404
    assert server.ask("GET", PATH).json()["data"] == []
    log = server.ask("GET", f"{PATH}/support/log").json()["data"]
    statuses = ["draft", "running", "running", "running", "paused", "stopped"]
    assert [phase["status"] for phase in log] == statuses
    (phases,) = registry.experiments("support")
    assert [phase.number for phase in phases] == [1, 2, 3, 4, 5, 6]


def test_it_starts_at_once_where_asked(server: Server) -> None:
    assert post(server, "", **NEW, start=True).json()["status"] == "running"
    again = post(server, "", **NEW)
    assert again.status_code == 409
    assert "Stop it first" in again.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "content", "status", "why"),
    [
        ("", {}, 400, "`adapter` is missing"),
        ("", {**NEW, "adapter": 5}, 400, "not a text"),
        ("", {**NEW, "adapter": "suport"}, 404, "support"),
        ("", {**NEW, "adapter": "../x"}, 400, "not an adapter name"),
        ("", {**NEW, "arms": {"v1": 50, "v9": 50}}, 404, "v9"),
        ("", {**NEW, "arms": {"v1": 60, "v2": 60}}, 400, "sum to 120"),
        ("", {**NEW, "primary": ["a", "b"]}, 400, "both primary"),
        ("", {**NEW, "primery": "a"}, 400, "primary"),
        ("", {**NEW, "start": "yes"}, 400, "true or false"),
        ("/support/ramp", {"arms": [1]}, 400, "names no shares"),
        ("/support/ramp", {"arms": {"v1": 50, "v2": True}}, 400, "share of v2"),
        ("/support/ramp", {"arms": {"v1": 50, "v2": 50}}, 404, "No experiment"),
        ("/support/take-out", {}, 400, "`arm` is missing"),
        ("/support/stop", {"why": "so"}, 400, "takes no 'why'"),
        ("/support/stop", {"reason": 5}, 400, "not a text"),
        ("/support/stop", {}, 404, "No experiment"),
        ("/support/explode", {}, 404, "Nothing is at"),
        ("/suport/stop", {}, 404, "support"),
    ],
)
def test_what_cannot_be_meant(
    server: Server, registry: Registry, path: str, content: dict[str, Any], status: int, why: str
) -> None:
    answer = post(server, path, **content)
    assert (answer.status_code, why in answer.text) == (status, True), answer.text
    assert registry.experiment("support") is None


def test_methods_that_there_are_not(server: Server) -> None:
    for method, path in (("DELETE", ""), ("GET", "/support/stop"), ("POST", "/support/log")):
        assert server.ask(method, PATH + path).status_code == 405
    assert server.ask("POST", PATH, content=b"[1]").status_code == 400


def test_it_reports_and_promotes_on_evidence(
    server: Server, registry: Registry, store: SqlStore
) -> None:
    assert server.ask("GET", f"{PATH}/support/report").status_code == 404
    post(server, "", **NEW, start=True)
    early = post(server, "/support/promote")
    assert (early.status_code, "no evidence" in early.text) == (400, True), early.text
    running = registry.experiment("support")
    assert running
    lived(store, "support", running, {"v1": 0.2, "v2": 0.6})
    report = server.ask("GET", f"{PATH}/support/report").json()
    assert (report["object"], report["verdict"]["kind"]) == ("experiment.report", "winner")
    assert [side["arm"] for side in report["sides"]] == ["v1", "v2"]
    assert post(server, "/support/promote", force="yes").status_code == 400
    assert post(server, "/support/promote").json()["status"] == "stopped"
    assert registry.history("support", "production")[-1].evidence["experiment"] == "ab-1"
    assert server.ask("GET", f"{PATH}/support/report").json()["status"] == "stopped"


def test_it_is_for_admins_and_says_who_did_it(
    serve: MakeServer, registry: Registry, store: SqlStore, support: tuple[Version, Version]
) -> None:
    journal = KeyJournal()
    secrets = {
        "infer": journal.create("infer", allow=["*"])[1],
        "feedback": journal.create("feedback", allow=["*"], role="feedback")[1],
        "admin": journal.create("admin", role="admin")[1],
    }
    server = serve(control=Control(registry, store), journal=journal)
    answers = {}
    for role, secret in secrets.items():
        headers = {"authorization": f"Bearer {secret}"}
        answers[role] = server.ask("POST", PATH, json=NEW, headers=headers)
    assert [answers[role].status_code for role in secrets] == [403, 403, 200]
    assert answers["admin"].json()["actor"] == "key admin"
    assert server.ask("GET", PATH).status_code == 401
