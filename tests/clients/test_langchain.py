"""`langchain-openai`: a chat model that is one adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

from tests.clients.conftest import MAX_TOKENS, MESSAGE, NAMES, Said

Make = Callable[..., ChatOpenAI]


class Verdict(BaseModel):
    """What a customer feels."""

    mood: Literal["glad", "sad"]
    urgent: bool


@pytest.fixture
def make(url: str, key: str) -> Make:
    def made(model: str, **options: object) -> ChatOpenAI:
        fields = {"max_tokens": MAX_TOKENS, "temperature": 0, "max_retries": 0, "api_key": key}
        return ChatOpenAI(**{**fields, **options}, model=model, base_url=f"{url}/v1")

    return made


@pytest.mark.parametrize(("name", "version"), NAMES.items())
def test_invoke(make: Make, said: Said, name: str, version: str) -> None:
    reply = make(name).invoke(MESSAGE)
    assert reply.content == said(version)
    assert reply.response_metadata["model_name"].split("+")[0] == version
    assert reply.usage_metadata
    assert reply.usage_metadata["output_tokens"] <= MAX_TOKENS


def test_stream_with_usage(make: Make, said: Said) -> None:
    chunks = list(make("support", stream_usage=True).stream(MESSAGE))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == said("support@v1")
    assert whole.usage_metadata
    assert whole.usage_metadata["output_tokens"] <= MAX_TOKENS


def test_batch(make: Make, said: Said) -> None:
    asked = [MESSAGE, "Hello", "The kettle does not turn on."]
    replies = make("support").batch(asked)
    turns = [[{"role": "user", "content": text}] for text in asked]
    assert [reply.content for reply in replies] == [said("support@v1", each) for each in turns]


def test_async(make: Make, said: Said) -> None:
    assert asyncio.run(make("support@v2").ainvoke([HumanMessage(MESSAGE)])).content == said(
        "support@v2"
    )


def test_logprobs(make: Make) -> None:
    reply = make("support", logprobs=True, top_logprobs=2).invoke(MESSAGE)
    tokens = reply.response_metadata["logprobs"]["content"]
    assert tokens
    assert all(token["logprob"] <= 0 for token in tokens)


def test_structured_output(make: Make) -> None:
    model = make("support", max_tokens=60).with_structured_output(Verdict, method="json_schema")
    assert isinstance(model.invoke(MESSAGE), Verdict)


def test_through_responses(make: Make, said: Said) -> None:
    reply = make("support", use_responses_api=True).invoke(MESSAGE)
    assert reply.text == said("support@v1")


def test_exceptions(make: Make, url: str, key: str, poor_key: str) -> None:
    with pytest.raises(openai.NotFoundError):
        make("nobody").invoke(MESSAGE)
    with pytest.raises(openai.AuthenticationError):
        make("support", api_key="wrong").invoke(MESSAGE)
    with pytest.raises(openai.RateLimitError):
        make("support", api_key=poor_key).invoke(MESSAGE)
    embeddings = OpenAIEmbeddings(
        model="support", base_url=f"{url}/v1", api_key=key, check_embedding_ctx_length=False
    )
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings"):
        embeddings.embed_query(MESSAGE)
