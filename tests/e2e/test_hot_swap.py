"""Many versions from one process: each answers as PEFT says it must, also while things move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from openai import AsyncOpenAI, OpenAI

from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version
from loadtests import fleet
from tests.e2e.conftest import FLEET, MAX_TOKENS, Reference
from tests.e2e.shut import Shut
from tests.waiting import HANGS_S, wait

MESSAGES = ("What is the capital of France?", "The kettle does not turn on.", "Name three birds.")
Open = Callable[[], AsyncOpenAI]


async def ask(
    client: AsyncOpenAI, model: str, message: str, **extra: object
) -> tuple[str, str, str]:
    """Return the answer, `x-adapter` and `x-adapter-arm`."""
    raw = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": message}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        **extra,
    )
    text = raw.parse().choices[0].message.content or ""
    return text, raw.headers["x-adapter"], raw.headers.get("x-adapter-arm", "")


def test_eight_versions_and_the_base_in_one_batch_answer_as_peft_does(
    open_client: Open, registry: Registry, reference: Reference
) -> None:
    versions: list[Version | None] = [registry.resolve(name) for name in FLEET]
    work = [(v, m) for m in MESSAGES for v in [*versions, None]]

    async def all_at_once() -> list[tuple[str, str, str]]:
        async with open_client() as client:
            return await asyncio.gather(*(ask(client, v.ref if v else "tiny", m) for v, m in work))

    answers = asyncio.run(all_at_once())
    assert [a[1] for a in answers] == [v.engine_name if v else "tiny" for v, _ in work]
    assert [a[0] for a in answers] == [reference(v, m) for v, m in work]
    different = {answer for answer, _, _ in answers[: len(versions) + 1]}
    assert len(different) == len(versions) + 1, "adapters that answer alike would prove nothing"


def test_an_alias_moves_under_load_on_two_servers_and_no_request_fails_nor_mixes_versions(
    open_client: Open, shut: Shut, registry: Registry, reference: Reference
) -> None:
    """They have nothing in common but the registry, and each follows in its own time."""
    before, after = registry.resolve("support@v1"), registry.resolve("support@v2")
    expected = {v.engine_name: reference(v, MESSAGES[0]) for v in (before, after)}
    assert len(set(expected.values())) == 2
    moved = False
    seen: list[list[str]] = [[], []]
    """By server, what served each request."""

    async def customer(client: AsyncOpenAI, mine: list[str]) -> None:
        while any(served.count(after.engine_name) < 5 for served in seen):
            followed = after.engine_name in mine
            text, served, _ = await ask(client, "support", MESSAGES[0])
            assert text == expected[served]
            assert served == before.engine_name or moved
            assert served == after.engine_name or not followed, "it moves once"
            mine.append(served)

    async def operator() -> None:
        nonlocal moved
        while any(len(served) < 5 for served in seen):
            await asyncio.sleep(0.05)
        moved = True
        registry.promote("support@v2", reason="test")

    async def play() -> None:
        async with open_client() as one, shut.open_client() as other, asyncio.timeout(HANGS_S):
            clients = (one, other)
            for client in clients:  # both are in memory, as how long loads take is no matter
                assert (await ask(client, "support@v2", MESSAGES[0]))[1] == after.engine_name
            async with asyncio.TaskGroup() as people:
                people.create_task(operator())
                for client, mine in zip(clients * 3, seen * 3, strict=True):
                    people.create_task(customer(client, mine))
            registry.rollback("support")
            for client in clients:
                while (await ask(client, "support", MESSAGES[0]))[1] != before.engine_name:
                    pass

    asyncio.run(play())


def test_versions_published_while_it_runs_are_served(
    client: OpenAI, open_client: Open, registry: Registry, reference: Reference
) -> None:
    (version,) = fleet.publish(registry, ["newcomer"])
    wait(lambda: "newcomer" in {card.id for card in client.models.list()})

    async def one() -> tuple[str, str, str]:
        async with open_client() as client:
            return await ask(client, "newcomer", MESSAGES[0])

    text, served, _ = asyncio.run(one())
    assert served == version.engine_name
    assert text == reference(version, MESSAGES[0])


def arm(client: OpenAI) -> str:
    """Return the experiment's arm that a user of `support` is in, or nothing."""
    messages: list[Any] = [{"role": "user", "content": MESSAGES[0]}]
    raw = client.chat.completions.with_raw_response.create(
        model="support", messages=messages, max_tokens=1, user="anybody"
    )
    return str(raw.headers.get("x-adapter-arm", ""))


def test_an_experiment_is_sticky_and_pins_bypass_it(
    client: OpenAI, open_client: Open, registry: Registry, reference: Reference
) -> None:
    versions = {"v1": registry.resolve("support@v1"), "v2": registry.resolve("support@v2")}
    expected = {arm: reference(v, MESSAGES[0]) for arm, v in versions.items()}
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    users = [f"user-{number}" for number in range(16)]

    async def ask_users() -> tuple[list[tuple[str, str, str]], ...]:
        async with open_client() as client:
            once, again, session, pinned = [
                await asyncio.gather(*(ask(client, m, MESSAGES[0], **extra(u)) for u in users))
                for m, extra in (
                    ("support", lambda u: {"user": u}),
                    ("support", lambda u: {"user": u}),
                    ("support", lambda u: {"extra_headers": {"x-session-id": u}}),
                    ("support@v1", lambda u: {"user": u}),
                )
            ]
            return once, again, session, pinned

    try:
        wait(lambda: arm(client))
        once, again, session, pinned = asyncio.run(ask_users())
    finally:
        registry.stop_experiment("support")
    assert once == again == session
    assert {arm for _, _, arm in once} == {"v1", "v2"}
    assert all(text == expected[arm] for text, _, arm in once)
    assert all(served == versions[arm].engine_name for _, served, arm in once)
    assert {(served, arm) for _, served, arm in pinned} == {(versions["v1"].engine_name, "")}

    wait(lambda: not arm(client))

    async def afterwards() -> list[tuple[str, str, str]]:
        async with open_client() as client:
            return await asyncio.gather(
                *(ask(client, "support", MESSAGES[0], user=u) for u in users)
            )

    assert {(s, a) for _, s, a in asyncio.run(afterwards())} == {(versions["v1"].engine_name, "")}
