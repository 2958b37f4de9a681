"""What a key may not see does not exist for it: no answer differs, no answer names it."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adapters.experiments import Arm
from adapters.keys import Key, KeyJournal
from adapters.registry import Registry
from serve.routes.snapshot import EMPTY, Snapshot, take
from serve.tenants.caller import ANYBODY, Caller
from serve.tenants.keys import Keys
from tests.serve.conftest import FOREIGN, SERVED, MakeServer, Publish, Server

NAMES = ["support", "support-de", "support.fr", "tone", "tone-old", "stranger", "retired"]
SECRET = "sk-swy-secret"
PATTERNS = st.sampled_from(
    ["*", "support", "support*", "support-*", "*-*", "tone", "t?ne", "[st]*", "[!s]*", "small",
     "small*", "stranger", "retired", "nothing", "SUPPORT", "sup", "*old", "[", "**", "a|b", ".*"]
)  # fmt: skip
REFS = ["", "@v1", "@v2", "@v9", "@latest", "@production", "@canary", "@sha256:00000000", "@", "/x"]
MODELS = st.one_of(
    st.builds(
        lambda name, ref: name + ref,
        st.sampled_from([*NAMES, *SERVED.names, "suport", "tune", "../tone"]),
        st.sampled_from(REFS),
    ),
    st.text(max_size=20),
)


def key(*allow: str) -> Key:
    from adapters.keys import hash_of

    return Key(
        "web", "key-1", hash_of(SECRET).hex(), "cret", "infer", allow, None, None, "now", None
    )


@pytest.fixture
def registry(registry: Registry, publish: Publish) -> Registry:
    for name in NAMES:
        publish(name, FOREIGN if name == "stranger" else SERVED.model)
    publish("support")
    registry.promote("support@v1")
    registry.promote("tone@v1", "canary")
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    from adapters.housekeeping import Housekeeping

    Housekeeping.open(registry.location).retire("retired@v1")
    return registry


class _OneKey(Keys):
    """Opens for one key that is in no file."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(["flag"])
        self._callers = {bytes.fromhex(caller.key.sha256): caller} if caller.key else {}


def without(snapshot: Snapshot, hidden: Iterable[str]) -> Snapshot:
    adapters = {name: a for name, a in snapshot.adapters.items() if name not in set(hidden)}
    return Snapshot(MappingProxyType(adapters))


def answers(server: Server, model: str) -> list[tuple[int, Any, dict[str, str]]]:
    """Return all that a key is told of a model, by every way to ask."""
    headers = {"authorization": f"Bearer {SECRET}"}
    content = {"model": model, "messages": [], "user": "one"}
    replies: list[httpx.Response] = server.ask_all(
        [
            ("POST", "/v1/chat/completions", {"json": content, "headers": headers}),
            ("POST", "/v1/messages", {"json": content, "headers": headers}),
            ("POST", "/tokenize", {"json": content, "headers": headers}),
            ("GET", "/v1/models", {"headers": headers}),
            ("GET", f"/v1/models/{quoted(model)}", {"headers": headers}),
        ]
    )
    told = []
    for reply in replies:
        said = dict(reply.headers)
        said.pop("x-request-id")
        told.append((reply.status_code, reply.json(), said))
    return told


def quoted(model: str) -> str:
    from urllib.parse import quote

    return quote(model.encode("utf-8", "surrogatepass"), safe="") or "%20"


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(allow=["stranger"], model="stranger")
@example(allow=["support"], model="tune")
@example(allow=["tone*"], model="small")
@example(allow=["nothing"], model="")
@given(allow=st.lists(PATTERNS, min_size=1, max_size=3), model=MODELS)
@example(allow=["*-*"], model="small-alias")
def test_a_hidden_adapter_and_a_missing_one_are_the_same(
    registry: Registry, allow: list[str], model: str
) -> None:
    snapshot, caller = take(registry), Caller(key(*allow))
    hidden = [
        name for name in [*NAMES, *SERVED.names]
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)
    ]  # fmt: skip
    assert hidden == [name for name in [*NAMES, *SERVED.names] if not caller.sees(name)]
    told = []
    for seen in (snapshot, without(snapshot, hidden)):
        server = Server(lambda seen=seen: seen)
        server.app._keys = _OneKey(caller)
        told.append(answers(server, model))
    assert told[0] == told[1]
    secret = {*hidden} - {model.partition("@")[0]}
    if any(caller.sees(name) for name in SERVED.names):
        secret -= {*SERVED.names}  # names of one base: whichever it is asked by, it says the first
    for status, content, headers in told[0]:
        words = set(json.dumps([content, headers]).replace("@", '"').replace(" ", '"').split('"'))
        words = {word.strip(".,;'") for word in words}
        assert not words & secret, (status, content)


def test_what_is_hidden_is_openais_404_and_names_only_what_is_seen(
    serve: MakeServer, registry: Registry, tmp_path: Any
) -> None:
    journal = KeyJournal(tmp_path / "keys.jsonl")
    _, secret = journal.create("web", allow=["support*"])
    server, headers = serve(journal=journal), {"authorization": f"Bearer {secret}"}
    for model in ("tone", "tone@v1", "small", "nobody"):
        reply = server.chat(model, headers=headers)
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "model_not_found"
        assert "Here are support, support-de, support.fr" in reply.json()["error"]["message"]
    ids = [card["id"] for card in server.ask("GET", "/v1/models", headers=headers).json()["data"]]
    assert {name.partition("@")[0] for name in ids} == {"support", "support-de", "support.fr"}
    assert server.chat("support", headers=headers).status_code == 200


def test_the_base_is_a_name_like_any_other(
    serve: MakeServer, registry: Registry, tmp_path: Any
) -> None:
    journal = KeyJournal(tmp_path / "keys.jsonl")
    _, everything = journal.create("all", allow=["*"])
    _, alone = journal.create("base", allow=["small"])
    server = serve(journal=journal)
    for secret, statuses in ((everything, (200, 200, 200)), (alone, (200, 404, 404))):
        headers = {"authorization": f"Bearer {secret}"}
        models = ("small", "small-alias", "support")
        assert tuple(server.chat(m, headers=headers).status_code for m in models) == statuses


def test_an_admin_sees_the_registry_itself() -> None:
    assert ANYBODY.view(EMPTY, SERVED) == (EMPTY, SERVED)
    assert ANYBODY.view(EMPTY, SERVED)[0] is EMPTY


def test_nothing_is_looked_at_but_the_name_that_is_asked_for(registry: Registry) -> None:
    """However many adapters there are: a request pays for its own name only."""
    snapshot, asked = take(registry), []
    caller = Caller(key("support*"))
    sees = caller.sees
    caller.sees = lambda name: asked.append(name) or sees(name)  # type: ignore[method-assign]
    seen, _ = caller.view(snapshot, SERVED)
    asked.clear()
    assert seen.adapters.get("support") is snapshot.adapters["support"]
    assert seen.adapters.get("tone") is None
    assert asked == ["support", "tone"]
    assert len(seen.adapters) == 3
