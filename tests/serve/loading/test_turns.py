"""Who is waited for goes first, nobody is forgotten, and no more are in than there are places."""

from __future__ import annotations

import asyncio

import pytest

from serve.loading.turns import Turns
from tests.waiting import HANGS_S


async def enter(turns: Turns, name: str, entered: list[str], leave: asyncio.Event) -> None:
    async with turns.turn(name):
        entered.append(name)
        await leave.wait()


def test_the_wanted_go_before_the_others_and_then_the_first() -> None:
    async def play() -> list[str]:
        entered: list[str] = []
        leave = asyncio.Event()
        turns = Turns(1, lambda name: name.startswith("wanted"))
        names = ["first", "second", "wanted-1", "third", "wanted-2"]
        tasks = [asyncio.create_task(enter(turns, name, entered, leave)) for name in names]
        await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(*tasks)
        return entered

    assert asyncio.run(play()) == ["first", "wanted-1", "wanted-2", "second", "third"]


@pytest.mark.parametrize("places", [1, 2, 4])
def test_places_are_kept_whoever_is_cancelled_when(places: int) -> None:
    async def play() -> None:
        inside = most = 0
        turns = Turns(places, lambda _: False)

        async def work(number: int) -> None:
            nonlocal inside, most
            async with turns.turn(str(number)):
                inside += 1
                most = max(most, inside)
                try:
                    for _ in range(number % 3):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(work(number)) for number in range(60)]
        for number in range(0, 60, 2):
            await asyncio.sleep(0)
            tasks[number].cancel()
            tasks[(7 * number) % 60].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most == places
        async with asyncio.timeout(HANGS_S):
            await asyncio.gather(*(work(number) for number in range(places)))

    asyncio.run(play())
