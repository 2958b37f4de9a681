"""Many versions from one process: each answers as PEFT says it must, also while things move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from openai import AsyncOpenAI

from adapters.registry import Registry
from adapters.types import Arm, Version
from loadtests import fleet
from tests.e2e.conftest import FLEET, MAX_TOKENS, Reference
from tests.e2e.shut import Shut

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
    """They have nothing in common but the registry, and each its own two seconds."""
    before, after = registry.resolve("support@v1"), registry.resolve("support@v2")
    expected = {v.engine_name: reference(v, MESSAGES[0]) for v in (before, after)}
    assert len(set(expected.values())) == 2
    seen: dict[int, list[tuple[float, str]]] = {0: [], 1: []}

    moved = float("inf")

    def over() -> bool:
        return all(sum(sent > moved + 2 for sent, _ in each) > 2 for each in seen.values())

    async def customer(server: int, client: AsyncOpenAI) -> None:
        while not over():
            sent = time.monotonic()
            text, served, _ = await ask(client, "support", MESSAGES[0])
            assert text == expected[served]
            seen[server].append((sent, served))

    async def play() -> None:
        nonlocal moved
        async with open_client() as one, shut.open_client() as other:
            for client in (one, other):  # both are in memory, as how long loads take is no matter
                assert (await ask(client, "support@v2", MESSAGES[0]))[1] == after.engine_name
            customers = asyncio.gather(
                *(customer(n, client) for n, client in enumerate((one, other)) for _ in "abc")
            )
            await asyncio.sleep(1.5)
            registry.promote("support@v2", reason="test")
            moved = time.monotonic()
            await customers

    asyncio.run(play())
    registry.rollback("support")
    for requests in seen.values():
        assert {served for sent, served in requests if sent < moved} == {before.engine_name}
        assert {served for sent, served in requests if sent > moved + 2} == {after.engine_name}


def test_versions_published_while_it_runs_are_served(
    open_client: Open, registry: Registry, reference: Reference, url: str
) -> None:
    (version,) = fleet.publish(registry, ["newcomer"])

    async def later() -> tuple[str, str, str]:
        await asyncio.sleep(1)
        async with open_client() as client:
            return await ask(client, "newcomer", MESSAGES[0])

    text, served, _ = asyncio.run(later())
    assert served == version.engine_name
    assert text == reference(version, MESSAGES[0])


def test_an_experiment_is_sticky_and_pins_bypass_it(
    open_client: Open, registry: Registry, reference: Reference
) -> None:
    versions = {"v1": registry.resolve("support@v1"), "v2": registry.resolve("support@v2")}
    expected = {arm: reference(v, MESSAGES[0]) for arm, v in versions.items()}
    registry.start_experiment("support", [Arm("v1", 1, 50), Arm("v2", 2, 50)])
    users = [f"user-{number}" for number in range(16)]

    async def ask_users() -> tuple[list[tuple[str, str, str]], ...]:
        await asyncio.sleep(1)
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
        once, again, session, pinned = asyncio.run(ask_users())
    finally:
        registry.stop_experiment("support")
    assert once == again == session
    assert {arm for _, _, arm in once} == {"v1", "v2"}
    assert all(text == expected[arm] for text, _, arm in once)
    assert all(served == versions[arm].engine_name for _, served, arm in once)
    assert {(served, arm) for _, served, arm in pinned} == {(versions["v1"].engine_name, "")}

    async def afterwards() -> list[tuple[str, str, str]]:
        await asyncio.sleep(1)
        async with open_client() as client:
            return await asyncio.gather(
                *(ask(client, "support", MESSAGES[0], user=u) for u in users)
            )

    assert {(s, a) for _, s, a in asyncio.run(afterwards())} == {(versions["v1"].engine_name, "")}
