"""Slots go round: no more adapters are in than there are slots, and none is left standing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.http.asgi import Message
from serve.loading.admission import Admission
from serve.loading.residency import Residency
from serve.loading.rotation import Rotation
from tests.serve.conftest import MakeServer, Publish
from tests.waiting import HANGS_S

TURN_S = 4.0
ROUNDS = 3
"""Times the loop goes round until what was started, ended or cancelled has had its effect."""


class Asked:
    """A request that runs until it is told to end."""

    def __init__(self, rotation: Rotation, name: str) -> None:
        self.name = name
        self.inside = False
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self._run(rotation))

    async def _run(self, rotation: Rotation) -> None:
        async with rotation.slot(self.name):
            self.inside = True
            try:
                await self.end.wait()
            finally:
                self.inside = False


class Play:
    """A rotation with a clock of its own, and the requests that were made."""

    def __init__(self, slots: int) -> None:
        self.now = 0.0
        self.slots = slots
        self.rotation = Rotation(slots, TURN_S, lambda: self.now)
        self.asked: list[Asked] = []

    async def ask(self, *names: str) -> list[Asked]:
        made = [Asked(self.rotation, name) for name in names]
        self.asked += made
        await self.go_round()
        return made

    async def end(self, *requests: Asked) -> None:
        for request in requests:
            request.end.set()
        await self.go_round()
        self.asked = [each for each in self.asked if not each.task.done()]

    async def cancel(self, *requests: Asked) -> None:
        for request in requests:
            request.task.cancel()
        await self.go_round()
        self.asked = [each for each in self.asked if not each.task.done()]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    async def go_round(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0)

    def inside(self) -> list[str]:
        return [each.name for each in self.asked if each.inside]


def test_what_fits_never_waits() -> None:
    async def play() -> None:
        game = Play(2)
        await game.ask("a", "b", "a", "b", "a")
        assert game.inside() == ["a", "b", "a", "b", "a"]

    asyncio.run(play())


def test_a_free_slot_goes_to_whom_has_waited_longest_and_all_of_those_go_in() -> None:
    async def play() -> None:
        game = Play(1)
        (first,) = await game.ask("a")
        await game.ask("b", "c", "c", "b")
        await game.end(first)
        assert game.inside() == ["b", "b"]
        assert game.rotation.waiting == {"c": 2}

    asyncio.run(play())


def test_for_each_that_waits_one_whose_turn_is_over_gives_way() -> None:
    async def play() -> None:
        game = Play(2)
        *_, short = await game.ask("a", "a", "b")
        await game.ask("rare")
        await game.ask("b", "b")
        assert game.inside() == ["a", "a", "b", "b", "b"], "while turns last, holders go on"
        game.pass_time(TURN_S)
        await game.ask("a", "b")
        assert sorted(game.inside()) == ["a", "a", "b", "b", "b", "b"]
        assert game.rotation.waiting == {"rare": 1, "a": 1}, "the one with the fewest requests"
        await game.end(short)
        assert "rare" not in game.inside()
        await game.end(*[each for each in game.asked if each.inside and each.name == "a"])
        assert sorted(game.inside()) == ["b", "b", "b", "rare"]
        assert game.rotation.waiting == {"a": 1}

    asyncio.run(play())


def test_a_holder_goes_on_if_whoever_waited_has_left() -> None:
    async def play() -> None:
        game = Play(1)
        await game.ask("a")
        (rare,) = await game.ask("rare")
        game.pass_time(TURN_S)
        await game.ask("a")
        assert game.inside() == ["a"]
        await game.cancel(rare)
        assert game.inside() == ["a", "a"]

    asyncio.run(play())


class Rounds(RuleBasedStateMachine):
    """Requests come, end, are cancelled, and time passes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.game = self.loop.run_until_complete(self._begin())

    async def _begin(self) -> Play:
        return Play(2)

    def do(self, step: Any) -> None:
        self.loop.run_until_complete(step)

    @rule(names=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4))
    def ask(self, names: list[str]) -> None:
        self.do(self.game.ask(*names))

    @rule(chosen=st.randoms(use_true_random=False))
    def end_one(self, chosen: Any) -> None:
        if running := [each for each in self.game.asked if each.inside]:
            self.do(self.game.end(chosen.choice(running)))

    @rule(chosen=st.randoms(use_true_random=False), both=st.booleans())
    def cancel_one(self, chosen: Any, both: bool) -> None:
        """`both`: in the moment in which another one ends."""
        if not self.game.asked:
            return
        request = chosen.choice(self.game.asked)
        running = [each for each in self.game.asked if each.inside and each is not request]
        if both and running:
            chosen.choice(running).end.set()
        self.do(self.game.cancel(request))

    @rule(seconds=st.sampled_from([1.0, TURN_S]))
    def pass_time(self, seconds: float) -> None:
        self.game.pass_time(seconds)

    @precondition(lambda self: self.game.rotation.waiting)
    @rule()
    def whoever_waits_has_a_slot_in_time_however_busy_the_others_are(self) -> None:
        """Before each answer ends, its adapter is asked again."""
        waiting = [each for each in self.game.asked if not each.inside]
        for name in list(self.game.rotation.waiting):
            self.game.pass_time(TURN_S)
            for each in [one for one in self.game.asked if one.inside]:
                self.do(self.game.ask(each.name))
                self.do(self.game.end(each))
            for each in waiting:
                assert each.name != name or each.inside or each.task.done(), f"{name} still waits"

    @invariant()
    def no_more_adapters_than_slots_and_no_free_slot_beside_a_queue(self) -> None:
        rotation, inside = self.game.rotation, self.game.inside()
        assert sorted(rotation.running.elements()) == sorted(inside)  # type: ignore[attr-defined]
        assert len(rotation.running) <= self.game.slots
        assert sum(rotation.waiting.values()) == len(self.game.asked) - len(inside)
        if len(rotation.running) < self.game.slots:
            assert not set(rotation.waiting) - set(rotation.running)

    def teardown(self) -> None:
        while self.game.asked:
            self.do(self.game.end(*self.game.asked))
        assert not self.game.rotation.running
        assert not self.game.rotation.waiting
        self.loop.close()


Rounds.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
test_slots_are_neither_lost_nor_kept = Rounds.TestCase


def test_versions_share_the_engines_slots_and_the_base_is_not_asked(
    support: tuple[Version, Version],
) -> None:
    one, two = support

    async def play() -> None:
        engine = EchoEngine("small", slots=1)
        admission = Admission(Residency(engine, rotation=Rotation(engine.slots, TURN_S)))
        await admission.residency.ready(two)
        async with admission.using(one):
            async with admission.using(two, computes=False):
                pass
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), admission.using(two):
                    pass
            assert not admission.waiting
            assert admission.running == {one.engine_name: 1}
        async with admission.using(two):
            pass

    asyncio.run(play())


def test_a_version_is_proven_in_its_turn_though_others_are_asked_all_the_time(
    support: tuple[Version, Version],
) -> None:
    one, two = support

    async def play() -> None:
        rotation = Rotation(1, 0.02)
        engine = EchoEngine("small", slots=1)
        here = Residency(engine, rotation=rotation)
        canary, proven_in = engine.canary, []

        async def watched(name: str | None) -> Any:
            if name == two.engine_name:
                proven_in.append(set(rotation.running))
            return await canary(name)

        engine.canary = watched  # type: ignore[method-assign]
        admission, over = Admission(here), asyncio.Event()

        async def customer() -> None:
            while not over.is_set():
                async with admission.using(one):
                    await asyncio.sleep(0.003)

        customers = [asyncio.create_task(customer()) for _ in range(3)]
        await asyncio.sleep(0.03)
        async with asyncio.timeout(HANGS_S):
            await here.ready(two)
        over.set()
        await asyncio.gather(*customers)
        assert proven_in == [{two.engine_name}]

    asyncio.run(play())


def test_who_has_a_slot_comes_back_into_memory_though_a_new_version_waits_for_one(
    support: tuple[Version, Version], publish: Publish
) -> None:
    one, two = support
    three = publish("three")

    async def play() -> None:
        engine = EchoEngine("small", slots=1, memory_places=1)
        here = Residency(engine, rotation=Rotation(1, TURN_S))
        admission = Admission(here)

        async def ask(version: Version) -> None:
            async with admission.using(version):
                pass

        await here.ready(one)
        async with asyncio.timeout(HANGS_S):
            async with admission.using(two):
                asked = [asyncio.create_task(ask(one))]
                while one.engine_name not in admission.waiting:
                    await asyncio.sleep(0.001)
                asked.append(asyncio.create_task(ask(three)))
                while three.engine_name not in admission.waiting:
                    await asyncio.sleep(0.001)
                await engine.load(two)  # as a step does: `one` is evicted
                await here.refresh()
            await asyncio.gather(*asked)

    asyncio.run(play())


def test_a_client_that_leaves_the_queue_leaves_no_request_behind(
    serve: MakeServer, support: tuple[Version, Version]
) -> None:
    server = serve(rotation=Rotation(1, TURN_S))
    left = asyncio.Event()
    sent: list[Message] = []

    async def receive() -> Message:
        if not body:
            await left.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body.pop(), "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    body = [b'{"model": "support@v2", "messages": []}']
    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}

    async def play() -> None:
        await server.admission.residency.ready(support[1])
        async with server.admission.using(support[0]):
            asked = asyncio.create_task(server.app(scope, receive, send))
            async with asyncio.timeout(HANGS_S):
                while not server.admission.waiting:
                    await asyncio.sleep(0.001)
                left.set()
                with suppress(asyncio.CancelledError):
                    await asked
            assert not server.admission.waiting
            assert not asked.cancelled()
            assert sent == []

    asyncio.run(play())
