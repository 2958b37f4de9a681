"""What a running server has loaded is not deleted; what is retired leaves it."""

from __future__ import annotations

import pytest
from openai import APIStatusError, OpenAI

from adapters.errors import Conflict
from adapters.housekeeping import Housekeeping
from adapters.leases import leases
from adapters.registry import Registry
from loadtests import fleet
from tests.waiting import wait


def ask(client: OpenAI, model: str) -> str:
    messages = [{"role": "user", "content": "Name three birds."}]
    return client.chat.completions.create(model=model, messages=messages, max_tokens=4).model  # type: ignore[call-overload,no-any-return]


def test_a_loaded_version_is_held_until_it_is_retired(client: OpenAI, registry: Registry) -> None:
    fleet.publish(registry, ["kept-house"])
    version = registry.resolve("kept-house")
    house = Housekeeping.open(registry.location)

    def held() -> bool:
        return any(version.engine_name in lease.holds for lease in leases(house.location))

    wait(lambda: version.ref in {card.id for card in client.models.list()})
    assert ask(client, "kept-house") == version.engine_name
    assert held()
    with pytest.raises(Conflict, match=r"a server .* has it loaded"):
        house.delete(version.ref)
    house.retire(version.ref, reason="a test")
    wait(lambda: not held())
    with pytest.raises(APIStatusError, match="was retired") as refused:
        ask(client, version.ref)
    assert refused.value.status_code == 410
    house.delete(version.ref)

    def gone() -> bool:
        with pytest.raises(APIStatusError) as refused:
            ask(client, version.ref)
        return refused.value.status_code == 404 and "No adapter" in str(refused.value)

    wait(gone)
    assert ask(client, "tiny") == "tiny", "the engine lives"
