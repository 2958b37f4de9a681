"""A server started again loads what it had, production first; its note is never in the way."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from adapters.registry import Registry
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.loading.residency import Residency
from serve.loading.warmth import Note, Served, Warming, held, wanted
from serve.routes.snapshot import take
from tests.serve.conftest import FOREIGN, SERVED, Publish


def test_what_is_held_is_noted_and_read_by_the_next_server_on_that_port(tmp_path: Path) -> None:
    served = Served(("b@v1+000000000000", "a@v1+000000000000"), ("a@v1+000000000000",), 2)
    Note(str(tmp_path), 8000).write(served)
    assert Note(str(tmp_path), 8000).read() == served
    assert Note(str(tmp_path), 8001).read() == Served()
    assert [path.name for path in (tmp_path / "served").iterdir()] == ["8000.json"]


def test_an_order_alone_is_not_written_and_nothing_does_not_replace_what_was(
    tmp_path: Path,
) -> None:
    Note(str(tmp_path), 1).write(Served(("a", "b")))
    note, file = Note(str(tmp_path), 1), tmp_path / "served" / "1.json"
    note.write(Served())
    assert note.read().loaded == ("a", "b")
    note.write(Served(("b", "c")))
    before = file.stat().st_ino
    note.write(Served(("c", "b")))
    assert file.stat().st_ino == before
    note.write(Served())
    assert note.read() == Served()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"loaded": [1], "pinned": []}', "[" * 9999])
def test_a_note_that_cannot_be_read_is_no_note(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "8000.json").write_text(content)
    assert Note(str(tmp_path), 8000).read() == Served()
    assert "cannot be read" in caplog.text


def test_a_place_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "served").write_text("a file where the folder would be")
    note = Note(str(tmp_path), 8000)
    note.write(Served(("a",)))
    note.write(Served(("b",)))
    assert caplog.text.count("cannot be noted") == 1


def test_pins_come_first_then_production_then_what_was_loaded_as_far_as_there_are_places(
    registry: Registry, publish: Publish, support: tuple[Version, Version]
) -> None:
    tone, pinned, last = publish("tone"), publish("pinned"), publish("last")
    foreign = publish("foreign", FOREIGN)
    registry.promote(foreign.ref)
    registry.promote(tone.ref)
    names = tuple(v.engine_name for v in (support[1], last, tone, foreign, pinned))
    served = Served((*names, "gone@v1+000000000000"), (pinned.engine_name,))
    found = wanted(take(registry), SERVED, served, 99)
    assert found[0] == pinned
    assert {version.ref for version in found[1:3]} == {"support@v1", "tone@v1"}
    assert found[3:] == [support[1], last]
    assert wanted(take(registry), SERVED, served, 2) == found[:2]


def test_warming_loads_and_pins_and_counts_what_is_left(
    publish: Publish, support: tuple[Version, Version]
) -> None:
    damaged = publish("damaged")
    (damaged.path / "adapter_config.json").chmod(0o644)
    (damaged.path / "adapter_config.json").write_text("{}")

    async def play() -> None:
        engine = EchoEngine("small")
        residency = Residency(engine)
        engine.gate.clear()
        warming = Warming(residency, [*support, damaged], [support[1].engine_name])
        running = asyncio.create_task(warming.run())
        await asyncio.sleep(0)
        assert warming.left == 3
        engine.gate.set()
        await running
        assert warming.left == 0
        assert engine.loaded() == {version.engine_name for version in support}
        assert held(residency).pinned == (support[1].engine_name,)
        assert set(held(residency).loaded) == engine.loaded()
        json.dumps(held(residency).loaded)

    asyncio.run(play())
