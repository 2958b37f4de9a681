"""Outcomes that come at once are written at once, and each hears what became of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from adapters.errors import Unavailable
from serve.experiments.store.base import MOST_OUTCOMES, Outcome, Receipt, Store
from serve.experiments.together import Together
from tests.serve.experiments.store.rows import outcome


class Slow:
    """A store that waits for whom it is told to, and refuses what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.spoilt: Exception | None = None
        self.open = threading.Event()

    def record(self, outcomes: Sequence[Outcome]) -> list[Receipt]:
        self.open.wait(20)
        self.batches.append([each.key for each in outcomes])
        if self.spoilt and any(each.key == "spoilt" for each in outcomes):
            raise self.spoilt
        return [Receipt(each, "recorded") for each in outcomes]


def posted(store: Slow, posts: Sequence[Sequence[str]]) -> list[Any]:
    """Post the first, and the others while the store writes it; return what each was told."""
    together = Together(cast(Store, store))

    async def play() -> list[Any]:
        given = [[outcome(key=key) for key in keys] for keys in posts]
        tasks = []
        for each in given:
            tasks.append(asyncio.create_task(together.record(each)))
            await asyncio.sleep(0.001)
        store.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    told = asyncio.run(play())
    together.close()
    return [
        each if isinstance(each, Exception) else [receipt.outcome.key for receipt in each]
        for each in told
    ]


def test_what_comes_while_one_is_written_goes_into_the_next() -> None:
    store, posts = Slow(), [[str(number)] for number in range(50)]
    assert posted(store, posts) == posts
    assert store.batches == [["0"], [str(number) for number in range(1, 50)]]


def test_no_transaction_is_larger_than_the_store_takes_and_none_is_cut() -> None:
    store = Slow()
    posts = [[f"{post}-{n}" for n in range(400)] for post in range(6)] + [[]]
    assert posted(store, posts) == posts
    assert [len(batch) for batch in store.batches] == [400, 800, 800, 400]
    assert all(len(batch) <= MOST_OUTCOMES for batch in store.batches)


def test_one_that_spoils_it_takes_no_other_with_it() -> None:
    store = Slow()
    store.spoilt = ValueError("what is this?")
    told = posted(store, [["a"], ["b"], ["spoilt", "c"], ["d"]])
    assert told == [["a"], ["b"], store.spoilt, ["d"]]


def test_a_database_that_is_gone_is_asked_once_for_all() -> None:
    store = Slow()
    store.spoilt = Unavailable("Gone.", fix="Start it.")
    assert posted(store, [["a"], ["b"], ["spoilt"], ["c"]]) == [["a"], *[store.spoilt] * 3]
    assert len(store.batches) == 2


@pytest.mark.parametrize("left", [0, 1])
def test_who_leaves_spoils_nothing_for_the_others(left: int) -> None:
    store = Slow()
    together = Together(cast(Store, store))

    async def play() -> list[str]:
        tasks = [asyncio.create_task(together.record([outcome(key=key)])) for key in "ab"]
        await asyncio.sleep(0.05)
        tasks[left].cancel()
        store.open.set()
        (receipt,) = await tasks[1 - left]
        return [receipt.outcome.key for receipt in [receipt] if isinstance(receipt, Receipt)]

    assert asyncio.run(play()) == ["ab"[1 - left]]
    together.close()
