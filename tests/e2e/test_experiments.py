"""The whole loop over HTTP: a better version is found and promoted by itself, a bad one goes.

A population asks for `triage` and says of each answer whether it helped. Nobody in it knows of
versions, and no byte of what it sends changes, but for who asks.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from itertools import count

import httpx
import pytest

from adapters.demo.task import split
from adapters.designs import read_design
from adapters.registry import Registry
from adapters.types import Version
from loadtests import fleet
from tests.waiting import HANGS_S
from train.recipe import Recipe
from train.run import Job, run

NAME = "triage"
CUSTOMERS = 12
TRAINED = {"max_steps": 40, "r": 16, "lora_alpha": 32, "learning_rate": 3e-3, "max_length": 256,
           "per_device_train_batch_size": 16}  # fmt: skip


@pytest.fixture(scope="module")
def versions(
    registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Version, Version, Version]:
    """v1, which knows nothing; v2, trained for a minute; v3, which knows nothing either."""
    rows = tmp_path_factory.mktemp("triage") / "train.jsonl"
    train, _ = split(700, 0)
    rows.write_text("".join(json.dumps(row.row()) + "\n" for row in train))
    (one,) = fleet.publish(registry, [NAME])
    two = run(Job(str(rows), "tiny", NAME, Recipe(**TRAINED)), registry)
    (three,) = fleet.publish(registry, [NAME])
    registry.promote(one.ref)
    return one, two, three


class Population:
    """Customers who ask, look whether an answer is of any use, and say so."""

    def __init__(self, url: str) -> None:
        _, test = split(0, 400)
        self._questions = [row.question() for row in test]
        self._url = url
        self.served: list[str] = []
        """Which version answered, in order."""
        self.arms: Counter[str] = Counter()
        self.receipts: Counter[str] = Counter()

    def live(self, until: Callable[[], bool]) -> None:
        """Ask and post until something is so; each request must be answered."""
        asyncio.run(self._live(until))

    async def _live(self, until: Callable[[], bool]) -> None:
        numbers = count()
        async with httpx.AsyncClient(base_url=self._url, timeout=HANGS_S) as client:

            async def customer() -> None:
                while not await asyncio.to_thread(until):
                    await self._visit(client, next(numbers))

            async with asyncio.timeout(5 * HANGS_S):
                await asyncio.gather(*(customer() for _ in range(CUSTOMERS)))

    async def _visit(self, client: httpx.AsyncClient, number: int) -> None:
        question = self._questions[number % len(self._questions)]
        asked = {
            "model": NAME,
            "messages": list(question.messages),
            "max_tokens": 32,
            "temperature": 0,
            "user": f"customer-{number}",
        }
        answer = await client.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, answer.text
        self.served.append(answer.headers.get("x-adapter", ""))
        self.arms[answer.headers.get("x-adapter-arm", "")] += 1
        if token := answer.headers.get("x-assignment"):
            text = answer.json()["choices"][0]["message"]["content"]
            helped = _is_document(text)
            said = [
                {"metric": "helped", "value": helped},
                {"metric": "useless", "value": not helped},
            ]
            headers = {"x-assignment": token}
            posted = await client.post("/v1/feedback", json={"outcomes": said}, headers=headers)
            assert posted.status_code == 200, posted.text
            self.receipts.update(result["status"] for result in posted.json()["results"])


def _is_document(text: str) -> bool:
    try:
        return set(json.loads(text)) == {"queue", "priority"}
    except (ValueError, TypeError):
        return False


def test_the_better_version_is_found_and_promoted_by_itself(
    url: str, registry: Registry, versions: tuple[Version, Version, Version]
) -> None:
    said = {
        "arms": ["v1", "v2"],
        "primary": "helped:effect=20%",
        "guardrails": ["error<=5%"],
        "method": "exact",
        "auto_promote": True,
    }
    arms, design = read_design(NAME, said)
    registry.start_experiment(NAME, arms, design=design)
    population = Population(url)
    population.live(lambda: population.served[-1:] == [versions[1].engine_name]
                    and registry.experiment(NAME) is None)  # fmt: skip
    assert registry.aliases(NAME)["production"] == 2
    assert population.arms["v1"] > 5
    assert population.arms["v2"] > 5
    kept = registry.history(NAME, "production")[-1]
    assert (kept.from_version, kept.to_version, kept.actor) == (1, 2, "server")
    evidence = kept.evidence
    assert evidence["metric"] == "helped"
    assert evidence["e_value"] >= 20
    assert evidence["difference"] > 0.5
    assert set(population.receipts) <= {"recorded", "late"}
    assert population.receipts["recorded"] >= 2 * sum(evidence["units"].values())


def test_a_bad_canary_is_rolled_back_by_itself_and_no_request_fails(
    url: str, registry: Registry, versions: tuple[Version, Version, Version]
) -> None:
    registry.promote(f"{NAME}@v2")
    said = {
        "arms": {"v2": 0.7, "v3": 0.3},
        "guardrails": ["useless<=20%", "error<=5%"],
        "policy": "canary",
        "steps": ["30%", "60%", "100%"],
        "step_units": 1000,
    }
    arms, design = read_design(NAME, said)
    phase = registry.start_experiment(NAME, arms, design=design)
    population = Population(url)
    population.live(lambda: registry.experiment(NAME) is None)
    assert population.arms["v3"] > 5
    assert registry.aliases(NAME)["production"] == 2
    phases = registry.experiments(NAME)[-1]
    assert phases[0] == phase
    assert [each.status for each in phases] == ["running", "stopped"], "it took no further step"
    assert phases[-1].actor == "server"
    assert "useless" in phases[-1].reason
