"""A version's first answers to the canary are held to those recorded at its publication."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext

import pytest

from adapters.canary import Answers
from adapters.registry import Registry
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.loading.probe import FailedProbe
from serve.loading.residency import Residency
from tests.conftest import BASE, MakeAdapter


@pytest.mark.parametrize(
    ("off", "exactness", "form", "served"),
    [
        (0.0, 0.01, 1, True),
        (0.009, 0.01, 1, True),
        (0.011, 0.01, 1, False),
        (0.011, 0.1, 1, True),
        (0.011, None, 1, True),
        (9.0, 0.01, 2, True),
    ],
)
def test_a_version_must_answer_as_it_did_where_it_was_published(
    registry: Registry,
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
    off: float,
    exactness: float | None,
    form: int,
    served: bool,
) -> None:
    monkeypatch.setattr(EchoEngine, "exactness", exactness)
    answers = {"1": -1.5 + off}
    folder = make_adapter()
    (folder / "canary.json").write_text(json.dumps({"form": form, "answers": [answers]}))
    version = registry.publish("support", folder, base=BASE)

    async def play() -> None:
        engine = EchoEngine("small")

        async def canary(name: str | None) -> tuple[dict[int, float]]:
            return ({1: -1.5 if name else -1.0},)

        monkeypatch.setattr(engine, "canary", canary)
        here = Residency(engine)
        with nullcontext() if served else pytest.raises(FailedProbe, match=r"otherwise.*0\.011"):
            await here.ready(version)
        assert here.standings[version.engine_name].final is not served

    asyncio.run(play())


def test_a_version_is_not_loaded_before_its_proof_whatever_the_engine_holds(
    support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        engine, probed = EchoEngine("small"), asyncio.Event()
        canary = engine.canary

        async def waiting(name: str | None) -> Answers:
            await probed.wait()
            return await canary(name)

        monkeypatch.setattr(engine, "canary", waiting)
        here = Residency(engine)
        loading = asyncio.create_task(here.ready(support[0]))
        while support[0].engine_name not in engine.loaded():
            await asyncio.sleep(0.001)
        await here.refresh()
        assert not here.is_loaded(support[0]), "else an alias would move to it"
        probed.set()
        await loading
        assert here.is_loaded(support[0])

    asyncio.run(play())
