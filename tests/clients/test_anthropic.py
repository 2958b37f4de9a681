"""The `anthropic` package: messages, streamed and not, counting, and its exceptions."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest
from anthropic import Anthropic

from tests.clients.conftest import MAX_TOKENS, MESSAGES, NAMES, Said

# This version's `create` has no `temperature`.
GREEDY = {"messages": MESSAGES, "max_tokens": MAX_TOKENS, "extra_body": {"temperature": 0}}


@pytest.fixture(scope="module")
def client(url: str, key: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=url, api_key=key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize(("name", "version"), NAMES.items())
def test_messages(client: Anthropic, said: Said, name: str, version: str) -> None:
    reply = client.messages.create(model=name, **GREEDY)
    assert reply.content[0].text == said(version)
    assert reply.model.split("+")[0] == version
    assert 0 < reply.usage.output_tokens <= MAX_TOKENS


def test_streamed_with_usage(client: Anthropic, said: Said) -> None:
    with client.messages.stream(model="support", **GREEDY) as stream:
        text = "".join(stream.text_stream)
        whole = stream.get_final_message()
    assert text == whole.content[0].text == said("support@v1")
    assert 0 < whole.usage.output_tokens <= MAX_TOKENS


def test_a_system_prompt_counts(client: Anthropic, said: Said) -> None:
    system = "Answer in one word."
    reply = client.messages.create(model="support", system=system, **GREEDY)
    turns = [{"role": "system", "content": system}, *MESSAGES]
    assert reply.content[0].text == said("support@v1", turns) != said("support@v1")


def test_counting_tokens(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="support", messages=MESSAGES)
    assert (
        counted.input_tokens == client.messages.create(model="support", **GREEDY).usage.input_tokens
    )


def test_models(client: Anthropic, url: str, key: str) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", **GREEDY)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nobody", messages=MESSAGES)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_has_its_own_exception(client: Anthropic, stream: bool) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(
            model="support", stream=stream, **{**GREEDY, "extra_body": {"temperature": -1}}
        )


def test_keys_and_limits(url: str, poor_key: str) -> None:
    with (
        Anthropic(base_url=url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="support", **GREEDY)
    with (
        Anthropic(base_url=url, api_key=poor_key, max_retries=0) as poor,
        pytest.raises(anthropic.RateLimitError) as limited,
    ):
        poor.messages.create(model="support", **GREEDY)
    assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
