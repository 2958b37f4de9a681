"""`adapters ab shadows`: sums, and pairs of answers as JSONL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.experiments import Arm, Design
from adapters.registry import Registry
from serve.experiments.store.base import Shadow
from serve.experiments.store.sql import SqlStore
from tests.adapters.conftest import Run
from tests.adapters.test_json import SHAPES, misfits
from tests.conftest import BASE, MakeAdapter


@pytest.fixture
def house(make_adapter: MakeAdapter) -> Registry:
    """The registry and the store that commands use: `v2` shadows `v1`, and answered twice."""
    house = Registry.open()
    for seed in range(2):
        house.publish("support", make_adapter(seed=seed), base=BASE)
    design = Design(shadow=2, keep_answers=True)
    house.start_experiment("support", [Arm("v1", 1, 100)], design=design)
    prompt = json.dumps({"path": "/v1/chat/completions", "messages": [{"content": "größer?"}]})
    pair = {"prompt": prompt, "answer": "ja", "shadow_answer": "nein"}
    store = SqlStore()
    store.shadow(
        [
            Shadow("support/ab-1", 1, "v1", "u", "r-1", 2, 1.0, latency_ms=250.0, **pair),
            Shadow("support/ab-1", 1, "v1", "u", "r-2", 2, 2.0, error=True),
        ]
    )
    store.close()
    return house


def test_it_sums_up_and_writes_pairs(house: Registry, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    code, said, _ = run(f"ab shadows support --out {out}")
    assert code == 0
    assert said.split("\n")[1].split() == ["v1", "v2", "2", "1", "1", "250"]
    assert f"1 pairs in {out}" in said
    (pair,) = map(json.loads, out.read_text().splitlines())
    assert pair["messages"] == [{"content": "größer?"}]
    names = {ref: house.resolve(f"support@{ref}").engine_name for ref in ("v1", "v2")}
    told = {each["model"]: each["text"] for each in pair["answers"]}
    assert told == {names["v1"]: "ja", names["v2"]: "nein"}


def test_its_document_is_what_the_page_says(house: Registry, run: Run) -> None:
    said = json.loads(run("ab shadows support --json")[1])
    assert misfits(said, SHAPES["ab shadows"]) == []
    assert [each["latency_ms"] for each in said] == [250.0]


def test_what_ended_is_still_there(house: Registry, run: Run) -> None:
    house.stop_experiment("support")
    assert "250" in run("ab shadows support")[1]
    house.start_experiment("support", [Arm("v1", 1, 100)], design=Design(shadow=2))
    assert "No shadow of ab-2 answered yet." in run("ab shadows support")[1]
    assert "250" in run("ab shadows support --experiment ab-1")[1]


def test_what_cannot_be_meant(house: Registry, run: Run, tmp_path: Path) -> None:
    assert run("ab shadows support --experiment tone")[0] == 3
    assert run("ab shadows nobody")[0] == 3
    code, _, said = run(f"ab shadows support --out {tmp_path}/nowhere/pairs.jsonl")
    assert code == 2
    assert "Name another file." in said
