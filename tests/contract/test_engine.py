"""One suite for every `serve.engines.engine.Engine`.

`EngineContract` is run here against the in-process double. To run it against another one,
subclass it where that one can be started and override the fixtures `engine` and `versions`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from adapters.errors import Unavailable
from adapters.registry import Registry
from adapters.types import Version
from serve.engines.asking import Terms, ask
from serve.engines.echo_engine import EchoEngine
from serve.engines.engine import Engine
from serve.http.asgi import Receive, Scope, Send
from serve.http.failures import RequestRefused
from serve.loading.probe import differ
from tests.conftest import BASE, RANK, MakeAdapter


async def chat(
    engine: Engine, model: str, terms: Terms | None = None, **more: object
) -> httpx.Response:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        said = terms or Terms(model)
        await ask(engine.app, said, scope, receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        content = {
            "model": model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 1,
            **more,
        }
        return await client.post("/v1/chat/completions", json=content)


class EngineContract:
    """What the server relies on. Each test leaves the engine as it found it."""

    base_name = BASE.id

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    def versions(self) -> list[Version]:
        """Two versions that the engine can load."""
        raise NotImplementedError

    @pytest.fixture
    def run(self) -> Callable[[Coroutine[Any, Any, Any]], Any]:
        """Run on the loop the engine lives on."""
        return asyncio.run

    def test_it_is_healthy_and_serves_its_base(self, engine: Engine, run: Any) -> None:
        run(engine.check())
        reply = run(chat(engine, self.base_name))
        assert reply.status_code == 200
        assert reply.json()["model"] == self.base_name
        assert engine.waiting == 0

    def test_a_version_answers_from_loading_to_removal(
        self, engine: Engine, versions: list[Version], run: Any
    ) -> None:
        name = versions[0].engine_name
        before = set(engine.loaded())
        assert run(chat(engine, name)).status_code == 404
        run(engine.load(versions[0]))
        assert set(engine.loaded()) == before | {name}
        reply = run(chat(engine, name))
        assert (reply.status_code, reply.json()["model"]) == (200, name)
        run(engine.remove(name))
        assert set(engine.loaded()) == before
        assert run(chat(engine, name)).status_code == 404

    def test_loading_at_once_and_again_changes_nothing(
        self, engine: Engine, versions: list[Version], run: Any
    ) -> None:
        async def at_once() -> None:
            await asyncio.gather(*(engine.load(v) for v in versions * 3))

        run(at_once())
        run(engine.load(versions[0]))
        assert {v.engine_name for v in versions} <= set(engine.loaded())
        for version in versions:
            assert run(chat(engine, version.engine_name)).status_code == 200
            run(engine.remove(version.engine_name))

    def test_a_removed_version_can_come_back(
        self, engine: Engine, versions: list[Version], run: Any
    ) -> None:
        name = versions[0].engine_name
        for _ in range(2):
            run(engine.load(versions[0]))
            assert run(chat(engine, name)).status_code == 200
            run(engine.remove(name))

    def test_removing_what_is_not_there_changes_nothing(self, engine: Engine, run: Any) -> None:
        before = set(engine.loaded())
        run(engine.remove("nobody@v1+000000000000"))
        assert set(engine.loaded()) == before

    def test_an_answer_bears_the_name_that_its_terms_say(self, engine: Engine, run: Any) -> None:
        reply = run(chat(engine, self.base_name, Terms("terse@v1+000000000000")))
        assert (reply.status_code, reply.json()["model"]) == (200, "terse@v1+000000000000")
        streamed = run(chat(engine, self.base_name, Terms("terse@v1+000000000000"), stream=True))
        chunks = [line for line in streamed.text.splitlines() if line.startswith("data: {")]
        models = {json.loads(chunk.removeprefix("data: "))["model"] for chunk in chunks}
        assert models == {"terse@v1+000000000000"}
        assert run(chat(engine, self.base_name)).json()["model"] == self.base_name

    def test_a_prompt_longer_than_its_terms_is_refused(self, engine: Engine, run: Any) -> None:
        with pytest.raises(RequestRefused) as refused:
            run(chat(engine, self.base_name, Terms(self.base_name, max_model_len=2)))
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
        reply = run(chat(engine, self.base_name, Terms(self.base_name, max_model_len=200)))
        assert reply.status_code == 200

    def test_it_says_what_is_in_memory_and_in_slots(
        self, engine: Engine, versions: list[Version], run: Any
    ) -> None:
        one, two = (version.engine_name for version in versions)
        assert 1 <= engine.slots <= engine.memory_places
        for version in versions:
            assert run(engine.load(version)) >= 0
        for name in (two, one):
            assert run(chat(engine, name)).status_code == 200
        held = run(engine.memory())
        assert [name for name in held.loaded if name in (one, two)] == [two, one], "latest last"
        assert one in held.resident
        assert held.resident <= set(held.loaded) <= engine.loaded()
        for name in (one, two):
            run(engine.remove(name))
        held = run(engine.memory())
        assert not {one, two} & (held.resident | set(held.loaded))

    def test_pins_are_set_and_lifted_and_need_a_loaded_version(
        self, engine: Engine, versions: list[Version], run: Any
    ) -> None:
        name = versions[0].engine_name
        with pytest.raises(Unavailable, match="memory"):
            run(engine.pin(name, True))
        run(engine.pin(name, False))
        run(engine.load(versions[0]))
        for pinned in (True, True, False, False, True):
            run(engine.pin(name, pinned))
        run(engine.remove(name))
        assert name not in run(engine.memory()).loaded

    def test_canaries_tell_a_version_from_the_base_and_are_the_same_every_time(
        self, engine: Engine, versions: list[Version], run: Any
    ) -> None:
        run(engine.load(versions[0]))
        base, again = run(engine.canary(None)), run(engine.canary(None))
        adapted = run(engine.canary(versions[0].engine_name))
        assert not differ(base, again)
        assert differ(base, adapted)
        run(engine.remove(versions[0].engine_name))

    def test_it_says_the_largest_rank_it_takes(
        self, engine: Engine, versions: list[Version]
    ) -> None:
        assert engine.max_lora_rank >= max(int(v.manifest.peft["r"]) for v in versions)


class TestEchoEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> EchoEngine:
        return EchoEngine(BASE.id, max_lora_rank=RANK)

    @pytest.fixture
    def versions(self, tmp_path: Any, make_adapter: MakeAdapter) -> list[Version]:
        registry = Registry.open(tmp_path)
        return [registry.publish(name, make_adapter(seed=1), base=BASE) for name in ("a", "b")]

    def test_in_trouble_it_is_not_healthy_and_loads_nothing(
        self, engine: EchoEngine, versions: list[Version], run: Any
    ) -> None:
        engine.trouble = "out of memory"
        with pytest.raises(Unavailable, match="memory"):
            run(engine.check())
        with pytest.raises(Unavailable):
            run(engine.load(versions[0]))
        assert engine.loaded() == frozenset()

    def test_what_memory_has_no_place_for_is_evicted_but_the_pinned(
        self, versions: list[Version], run: Any
    ) -> None:
        engine = EchoEngine(BASE.id, memory_places=1, slots=1)
        one, two = (version.engine_name for version in versions)
        for version, name in zip(versions, (one, two), strict=True):
            run(engine.load(version))
            assert run(engine.memory()).loaded == (name,)
        assert engine.loads == [one, two]
        engine = EchoEngine(BASE.id, memory_places=2, slots=1)
        run(engine.load(versions[0]))
        run(engine.pin(one, True))
        for _ in range(2):
            run(engine.load(versions[1]))
            assert run(engine.memory()).loaded == (one, two)
