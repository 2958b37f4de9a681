"""What a running server has loaded is not deleted; what is retired leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from openai import APIStatusError, OpenAI

from adapters.errors import Conflict
from adapters.housekeeping import Housekeeping
from adapters.leases import leases
from adapters.registry import Registry
from loadtests import fleet


def ask(client: OpenAI, model: str) -> str:
    messages = [{"role": "user", "content": "Name three birds."}]
    return client.chat.completions.create(model=model, messages=messages, max_tokens=4).model  # type: ignore[call-overload,no-any-return]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "not followed in time"
        time.sleep(0.1)


def test_a_loaded_version_is_held_until_it_is_retired(client: OpenAI, registry: Registry) -> None:
    fleet.publish(registry, ["kept-house"])
    version = registry.resolve("kept-house")
    house = Housekeeping.open(registry.location)
    until(lambda: version.ref in {card.id for card in client.models.list()})
    assert ask(client, "kept-house") == version.engine_name
    assert version.engine_name in leases(house.location)[0].holds
    with pytest.raises(Conflict, match=r"a server .* has it loaded"):
        house.delete(version.ref)
    house.retire(version.ref, reason="a test")
    until(lambda: version.engine_name not in leases(house.location)[0].holds)
    with pytest.raises(APIStatusError, match="was retired") as refused:
        ask(client, version.ref)
    assert refused.value.status_code == 410
    house.delete(version.ref)
    until(lambda: version.ref not in {card.id for card in client.models.list()})
    time.sleep(1)
    with pytest.raises(APIStatusError, match="No adapter") as refused:
        ask(client, version.ref)
    assert refused.value.status_code == 404
    assert ask(client, "tiny") == "tiny", "the engine lives"
