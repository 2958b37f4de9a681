"""A shadow answers copies, nobody hears it, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import Unavailable
from adapters.experiments import Arm, Design
from adapters.keys import KeyJournal
from adapters.registry import Registry
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.experiments import shadow
from serve.experiments.shadow import Shadows
from serve.experiments.store.base import Shadow
from serve.experiments.store.sql import SqlStore
from serve.experiments.store.units import stored
from serve.gate import Gate
from serve.http.asgi import Receive, Scope, Send, header, path_of, send_json
from serve.loading.admission import Admission
from serve.loading.residency import Residency
from serve.loading.rotation import Rotation
from serve.routes.snapshot import take
from serve.tenants.keys import Keys
from serve.watching.experiment_metrics import ExperimentMetrics
from serve.watching.metrics import Metrics
from serve.watching.observing import Observer
from tests.conftest import RANK
from tests.serve.conftest import SERVED, Publish
from tests.serve.http.test_answers import CHAT, LEGACY, MESSAGES, RESPONSES, document, stream

KEY = "support/ab-1"
ASK = {"messages": [{"role": "user", "content": "Hi"}], "user": "ann", "temperature": 0.5}


class House:
    """A server whose engine says who it is asked as; `v3` is the shadow of `support`."""

    def __init__(
        self, registry: Registry, store: SqlStore, slots: int = 4, keys: KeyJournal | None = None
    ) -> None:
        self.registry, self.store = registry, store
        self.engine = EchoEngine(SERVED.names[0], max_lora_rank=max(8, RANK), slots=slots)
        self.admission = Admission(
            Residency(self.engine, rotation=Rotation(slots, turn_s=1.0) if slots else None)
        )
        self.counted, self.served = CollectorRegistry(), CollectorRegistry()
        self.shadows = Shadows(
            self.engine, self.admission, lambda: take(registry), SERVED, store,
            ExperimentMetrics(self.counted),
        )  # fmt: skip
        gate = Gate(
            self.answer, engine=self.engine, admission=self.admission,
            snapshot=lambda: take(registry), base=SERVED, keys=Keys([], keys),
            shadows=self.shadows,
        )  # fmt: skip
        self.app = Observer(gate, Metrics(self.served))
        self.asked: list[tuple[str, dict[str, Any], Scope]] = []
        """Version, body and scope of each request that reached the engine, in their order."""
        self.left: list[str] = []
        """Versions whose client left."""
        self.may_answer = asyncio.Event()
        """Clear it, and shadows take their time."""
        self.may_answer.set()
        self.fails = False

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = json.loads((await receive())["body"])
        who = content["model"].partition("@")[2].partition("+")[0]
        self.asked.append((who, content, scope))
        if who == "v3":
            if not await self._waits(receive):
                self.left.append(who)
                return
            if self.fails:
                raise RuntimeError("the engine stumbled")
        path = path_of(scope)
        if content.get("stream"):
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            body = stream(path, who, " says")
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 7}}
        status = 400 if content.get("user") == "wrong" else 200
        await send_json(send, status, document(path, f"{who} says") | usage)

    async def _waits(self, receive: Receive) -> bool:
        """Wait until it may answer; False: the client left."""
        waits = [asyncio.ensure_future(each) for each in (self.may_answer.wait(), receive())]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        return waits[0] in done

    @asynccontextmanager
    async def client(self) -> Any:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
        await self.shadows.close()

    def ask(
        self,
        path: str = CHAT,
        *,
        number: int = 1,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> list[httpx.Response]:
        """Ask so many times, one after another, each once the shadow of the last is through."""

        async def asking() -> list[httpx.Response]:
            replies = []
            async with self.client() as client:
                for n in range(number):
                    asked = {"model": "support", **ASK, **content}
                    sent = {"x-request-id": f"r-{n}", **(headers or {})}
                    replies.append(await client.post(path, json=asked, headers=sent))
                    await settled(lambda: not self.shadows._running)
            return replies

        return asyncio.run(asking())

    def kept(self) -> list[Shadow]:
        return list(self.store.shadows(KEY))

    def count(self, result: str) -> float:
        labels = {"adapter": "support", "result": result}
        return self.counted.get_sample_value("switchyard_shadow_requests_total", labels) or 0


async def settled(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.005)


@pytest.fixture
def store(tmp_path: Any) -> Iterator[SqlStore]:
    store = SqlStore(f"sqlite:///{tmp_path}/experiments.db")
    yield store
    store.close()


@pytest.fixture
def versions(registry: Registry, publish: Publish) -> list[Version]:
    """Three, the first in production."""
    versions = [publish("support") for _ in range(3)]
    registry.promote("support@v1")
    return versions


@pytest.fixture
def start(registry: Registry, versions: list[Version], store: SqlStore) -> Callable[..., House]:
    def start(slots: int = 4, **design: Any) -> House:
        chosen = Design(**{"shadow": 3, **design})
        registry.start_experiment("support", [Arm("v1", 1, 100)], design=chosen)
        return House(registry, store, slots)

    return start


@pytest.mark.parametrize("path", [CHAT, LEGACY, RESPONSES, MESSAGES])
@pytest.mark.parametrize("streams", [False, True])
def test_a_request_is_answered_and_then_its_copy(
    start: Callable[..., House], registry: Registry, path: str, streams: bool
) -> None:
    house = start()
    (reply,) = house.ask(path, stream=streams)
    assert reply.headers["x-adapter-arm"] == "v1"
    said = stream(path, "v1", " says") if streams else b"v1 says"
    assert said in reply.content
    assert b"v3" not in reply.content
    (real, _, _), (copied, content, scope) = house.asked
    assert (real, copied) == ("v1", "v3")
    assert not content.get("stream"), "nobody listens"
    assert {key: content[key] for key in ASK} == ASK
    assert content.get("store") is (False if path == RESPONSES else None), "vLLM keeps none"
    assert int(header(scope, b"x-vllm-priority") or 0) > 0
    phase = registry.experiment("support")
    assert phase
    (kept,) = house.kept()
    assert (kept.phase, kept.arm, kept.request_id, kept.version) == (1, "v1", "r-0", 3)
    assert kept.unit == stored("ann", phase.salt)
    assert (kept.error, kept.output_tokens) == (False, 7)
    assert kept.latency_ms is not None
    assert (kept.prompt, kept.answer, kept.shadow_answer) == (None, None, None), "nobody agreed"
    assert house.count("answered") == 1


@pytest.mark.parametrize("path", [CHAT, LEGACY, RESPONSES, MESSAGES])
@pytest.mark.parametrize("streams", [False, True])
def test_answers_are_kept_where_that_was_chosen(
    start: Callable[..., House], path: str, streams: bool
) -> None:
    house = start(keep_answers=True)
    house.ask(path, stream=streams)
    (kept,) = house.kept()
    assert kept.prompt
    assert json.loads(kept.prompt) == {"path": path, "messages": ASK["messages"]}
    assert (kept.answer, kept.shadow_answer) == ("v1 says", "v3 says")


def test_a_pair_of_which_one_is_too_long_is_kept_without_its_texts(
    start: Callable[..., House],
) -> None:
    house = start(keep_answers=True)
    house.ask(messages=[{"role": "user", "content": "x" * (64 << 10)}])
    (kept,) = house.kept()
    assert (kept.prompt, kept.answer, kept.shadow_answer) == (None, None, None)
    assert kept.output_tokens == 7


def test_it_counts_in_no_metric_of_the_arms(start: Callable[..., House]) -> None:
    house = start()
    house.ask(number=3)
    assert [who for who, _, _ in house.asked].count("v3") == 3
    told = [s for m in house.served.collect() for s in m.samples if s.labels.get("version") == "v3"]
    assert told == []


def test_a_shadow_that_fails_fails_nobody(start: Callable[..., House]) -> None:
    house = start(keep_answers=True)
    house.fails = True
    replies = house.ask(number=2)
    assert [reply.status_code for reply in replies] == [200, 200]
    assert (house.kept(), house.count("failed")) == ([], 2)


def test_a_shadow_that_cannot_be_loaded_fails_nobody(
    start: Callable[..., House],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = start()
    load = house.engine.load

    async def refuse(version: Version) -> float:
        if version.number == 3:
            raise Unavailable("There is no room.", fix="Make some.")
        return await load(version)

    monkeypatch.setattr(house.engine, "load", refuse)
    replies = house.ask(number=3)
    assert [reply.status_code for reply in replies] == [200, 200, 200]
    assert house.count("failed") == 3
    assert caplog.text.count("Nothing is kept of a shadow") == 1


def test_a_store_that_is_gone_fails_nobody(
    start: Callable[..., House], tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    house = start()
    (tmp_path / "experiments.db").unlink()
    assert {reply.status_code for reply in house.ask(number=3)} == {200}
    assert house.count("failed") == 3
    assert caplog.text.count("Nothing is kept of a shadow") == 1


def test_what_was_not_answered_well_is_not_copied(start: Callable[..., House]) -> None:
    house = start()
    assert house.ask(user="wrong")[0].status_code == 400
    assert [who for who, _, _ in house.asked] == ["v1"]


@pytest.mark.parametrize("model", ["support@v1", "support@production", "small"])
def test_what_the_experiment_does_not_decide_is_not_copied(
    start: Callable[..., House], model: str
) -> None:
    house = start()
    house.ask(model=model)
    assert len(house.asked) == 1


def test_what_gets_no_answer_or_a_promise_of_one_is_not_copied(start: Callable[..., House]) -> None:
    house = start()
    house.ask("/v1/embeddings")
    house.ask(RESPONSES, background=True)
    assert len(house.asked) == 2


def test_nothing_is_copied_while_requests_queue(start: Callable[..., House]) -> None:
    house = start()
    house.engine.waiting = 1
    house.ask()
    assert [who for who, _, _ in house.asked] == ["v1"]
    assert (house.count("skipped"), house.kept()) == (1, [])


def in_flight(house: House, then: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Have a copy stand in the engine, and do something then."""

    async def asking() -> None:
        house.may_answer.clear()
        async with house.client() as client:
            await client.post(CHAT, json={"model": "support", **ASK})
            await settled(lambda: len(house.asked) == 2)
            await then(client)
            await settled(lambda: not house.shadows._running)

    asyncio.run(asking())


def test_a_copy_gives_way_as_soon_as_a_request_queues(start: Callable[..., House]) -> None:
    house = start()

    async def queue(_: Any) -> None:
        house.engine.waiting = 1

    in_flight(house, queue)
    assert house.left == ["v3"], "as vLLM hears of a client that leaves"
    assert (house.count("skipped"), house.kept()) == (1, [])
    assert not house.admission.running


def test_an_answer_that_does_not_come_is_given_up(
    start: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "_PATIENCE_S", 0.1)

    async def wait(_: Any) -> None:
        pass

    house = start()
    in_flight(house, wait)
    assert (house.left, house.count("skipped")) == (["v3"], 1)


def test_with_one_slot_a_request_does_not_wait_for_a_copy(start: Callable[..., House]) -> None:
    house = start(slots=1)

    async def ask(client: Any) -> None:
        house.may_answer.clear()
        async with asyncio.timeout(1):
            reply = await client.post(CHAT, json={"model": "support", **ASK})
        assert reply.status_code == 200
        house.may_answer.set()

    in_flight(house, ask)
    assert house.left == ["v3"]


def test_no_slot_is_asked_for_that_is_not_free(
    start: Callable[..., House], versions: list[Version]
) -> None:
    house = start(slots=2)

    async def asking() -> None:
        using = house.admission.using
        async with house.client() as client, using(versions[0]), using(versions[1]):
            await client.post(CHAT, json={"model": "support", **ASK})
            await settled(lambda: house.count("skipped") == 1)
            assert not house.admission.waiting

    asyncio.run(asking())
    assert [who for who, _, _ in house.asked] == ["v1"]


def test_a_copy_shares_what_is_cached_with_its_own_key_alone(
    registry: Registry, versions: list[Version], store: SqlStore, tmp_path: Path
) -> None:
    journal = KeyJournal(tmp_path / "keys.jsonl")
    _, secret = journal.create("web", allow=["*"])
    registry.start_experiment("support", [Arm("v1", 1, 100)], design=Design(shadow=3))
    house = House(registry, store, keys=journal)
    house.ask(headers={"authorization": f"Bearer {secret}"})
    salts = [content["cache_salt"] for _, content, _ in house.asked]
    assert len(salts) == 2
    assert len(set(salts)) == 1
    assert secret not in str([scope["headers"] for _, _, scope in house.asked[1:]])


def test_few_are_in_flight(start: Callable[..., House]) -> None:
    house = start()

    async def more(client: Any) -> None:
        for _ in range(5):
            await client.post(CHAT, json={"model": "support", **ASK})
        await asyncio.sleep(0.05)
        assert [who for who, _, _ in house.asked].count("v3") == 2
        house.may_answer.set()

    in_flight(house, more)
    assert (house.count("answered"), house.count("skipped")) == (2, 4)


def test_the_end_of_a_server_does_not_wait(start: Callable[..., House]) -> None:
    house = start()

    async def end(_: Any) -> None:
        async with asyncio.timeout(2):
            await house.shadows.close()

    in_flight(house, end)
    assert house.kept() == []


def test_a_request_id_is_in_the_sample_or_not(start: Callable[..., House]) -> None:
    house = start(shadow_share=0.3)
    house.ask(number=60)
    first = {each.request_id for each in house.kept()}
    assert 5 <= len(first) <= 35, "of 60 about 18"
    house.ask(number=60)
    assert {each.request_id for each in house.kept()} == first


def test_beside_a_split_each_arm_has_the_shadow(
    registry: Registry, versions: list[Version], store: SqlStore
) -> None:
    arms = [Arm("v1", 1, 50), Arm("v2", 2, 50)]
    registry.start_experiment("support", arms, design=Design(shadow=3))
    house = House(registry, store)
    for n in range(12):
        house.ask(user=f"user-{n}")
    assert {each.arm for each in house.kept()} == {"v1", "v2"}
    assert {each.version for each in house.kept()} == {3}
