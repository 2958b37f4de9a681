"""`litellm`: as an OpenAI and as an Anthropic endpoint; its fallbacks, costs and exceptions."""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches one when it is imported

import litellm
import pytest

from tests.clients.conftest import MAX_TOKENS, MESSAGES, NAMES, Said

Options = dict[str, Any]


@pytest.fixture
def options(url: str, key: str) -> Options:
    return {
        "api_base": f"{url}/v1",
        "api_key": key,
        "messages": MESSAGES,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }


@pytest.mark.parametrize(("name", "version"), NAMES.items())
def test_completion(options: Options, said: Said, name: str, version: str) -> None:
    reply = litellm.completion(model=f"openai/{name}", **options)
    assert reply.choices[0].message.content == said(version)
    assert reply.usage.prompt_tokens > 0


def test_streamed_with_usage(options: Options, said: Said) -> None:
    chunks = list(
        litellm.completion(
            model="openai/support", stream=True, stream_options={"include_usage": True}, **options
        )
    )
    whole = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert whole.choices[0].message.content == said("support@v1")
    assert whole.usage.completion_tokens <= MAX_TOKENS


def test_many_at_once(options: Options, said: Said) -> None:
    async def ask(name: str) -> str:
        reply = await litellm.acompletion(model=f"openai/{name}", **options)
        return str(reply.choices[0].message.content)

    async def play() -> list[str]:
        return list(await asyncio.gather(*map(ask, NAMES)))

    assert asyncio.run(play()) == [said(version) for version in NAMES.values()]


def test_costs_by_the_names_that_answers_bear(options: Options) -> None:
    price = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    litellm.register_model({"openai/support": {"litellm_provider": "openai", **price}})
    reply = litellm.completion(model="openai/support", **options)
    usage = reply.usage
    cost = litellm.completion_cost(completion_response=reply, model="openai/support")
    assert cost == pytest.approx(usage.prompt_tokens * 1e-6 + usage.completion_tokens * 2e-6)


def test_fallbacks(options: Options, said: Said) -> None:
    reply = litellm.completion(
        model="openai/nobody", fallbacks=["openai/support@v2"], num_retries=0, **options
    )
    assert reply.choices[0].message.content == said("support@v2")


def test_as_an_anthropic_endpoint(options: Options, said: Said, url: str) -> None:
    reply = litellm.completion(model="anthropic/support", **{**options, "api_base": url})
    assert reply.choices[0].message.content == said("support@v1")


def test_exceptions(options: Options, poor_key: str) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/nobody", **options)
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(model="openai/support", **{**options, "api_key": "wrong"})
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(
            model="openai/support", max_retries=0, **{**options, "api_key": poor_key}
        )
    long = [{"role": "user", "content": "long " * 4000}]
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model="openai/support", **{**options, "messages": long})
