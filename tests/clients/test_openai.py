"""The `openai` package: chat, completions, Responses, and its exceptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.conftest import MAX_TOKENS, MESSAGE, MESSAGES, NAMES, Said

GREEDY = {"messages": MESSAGES, "max_tokens": MAX_TOKENS, "temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Madrid", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Verdict(BaseModel):
    mood: Literal["glad", "sad"]
    urgent: bool


@pytest.fixture(scope="module")
def client(url: str, key: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_versions_that_answer_alike_would_prove_nothing(said: Said) -> None:
    versions = set(NAMES.values())
    assert len({said(version) for version in versions}) == len(versions)


@pytest.mark.parametrize(("name", "version"), NAMES.items())
def test_chat(client: OpenAI, said: Said, name: str, version: str) -> None:
    reply = client.chat.completions.create(model=name, **GREEDY)
    assert reply.choices[0].message.content == said(version)
    assert reply.model.split("+")[0] == version
    assert reply.usage
    assert reply.usage.completion_tokens <= MAX_TOKENS


@pytest.mark.parametrize("name", ["tiny", "support"])
def test_chat_streamed_with_usage(client: OpenAI, said: Said, name: str) -> None:
    stream = client.chat.completions.create(
        model=name, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said(name)
    assert all(chunk.usage is None for chunk in chunks)
    assert last.usage
    assert 0 < last.usage.completion_tokens <= MAX_TOKENS


def test_a_stream_that_asks_for_no_usage_gets_none(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="support", stream=True, **GREEDY)
    assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_several_answers_and_their_logprobs(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="support", messages=MESSAGES, max_tokens=4, n=3, seed=7, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    for choice in reply.choices:
        assert choice.logprobs
        assert choice.logprobs.content
        for token in choice.logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) >= 2
            assert token.token in [top.token for top in token.top_logprobs]


def test_logprobs_are_the_versions_own(client: OpenAI) -> None:
    def first(model: str) -> float:
        reply = client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=1, temperature=0, logprobs=True
        )
        assert reply.choices[0].logprobs
        assert reply.choices[0].logprobs.content
        return reply.choices[0].logprobs.content[0].logprob

    assert len({round(first(model), 4) for model in ("tiny", "support@v1", "support@v2")}) == 3
    assert first("support") == pytest.approx(first("support@v1"), abs=1e-4)


def test_structured_output(client: OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="support", messages=MESSAGES, max_tokens=40, temperature=0, response_format=Verdict
    )
    assert isinstance(reply.choices[0].message.parsed, Verdict)


def test_tools(client: OpenAI) -> None:
    asked = {**GREEDY, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60}
    reply = client.chat.completions.create(
        model="support", tools=[TOOL], tool_choice="required", **asked
    )
    calls = reply.choices[0].message.tool_calls
    assert calls
    assert calls[0].function.name == "weather"
    assert json.loads(calls[0].function.arguments)["city"] in ("Madrid", "Paris")


def test_a_tools_answer_goes_on(client: OpenAI) -> None:
    call = {"name": "weather", "arguments": '{"city": "Madrid"}'}
    turns = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny."},
    ]
    reply = client.chat.completions.create(
        **{**GREEDY, "messages": turns}, model="support", tools=[TOOL], tool_choice="auto"
    )
    assert reply.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_completions(client: OpenAI) -> None:
    def text(model: str, **fields: object) -> str:
        reply = client.completions.create(
            model=model, prompt=[MESSAGE, "Hello"], max_tokens=8, temperature=0, **fields
        )
        return "|".join(choice.text for choice in reply.choices)

    assert text("support") == text("support@v1") != text("support@v2")


def test_responses(client: OpenAI, said: Said) -> None:
    asked = {"input": MESSAGE, "max_output_tokens": MAX_TOKENS, "temperature": 0}
    reply = client.responses.create(model="support", **asked)
    assert reply.output_text == said("support@v1")
    assert client.responses.retrieve(reply.id).output_text == reply.output_text
    with client.responses.stream(model="support", **asked) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == reply.output_text
    later = client.responses.create(
        model="support@v2", **{**asked, "input": "And of France?"}, previous_response_id=reply.id
    )
    assert later.model.startswith("support@v2")
    parsed = client.responses.parse(
        model="support", **{**asked, "max_output_tokens": 40}, text_format=Verdict
    )
    assert isinstance(parsed.output_parsed, Verdict)


def test_models(client: OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert listed >= NAMES.keys()
    assert client.models.retrieve("support@production").id == "support@production"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_what_a_text_base_has_not_is_said_clearly(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"/v1/embeddings.*base"):
        client.embeddings.create(model="support", input="hello")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "suport"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"logit_bias": {"99999999": 1}}, openai.BadRequestError),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "long " * 4000}]}, openai.BadRequestError),
    ],
)
def test_what_is_wrong_has_its_own_exception(
    client: OpenAI, fields: dict[str, object], status: type[openai.APIStatusError], stream: bool
) -> None:
    with pytest.raises(status) as raised:
        client.chat.completions.create(**{"model": "support", "stream": stream, **GREEDY, **fields})
    assert raised.value.body["message"]  # type: ignore[index]


def test_a_stream_of_responses_is_not_just_cut_off(client: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="vocab"):
        list(
            client.responses.create(
                model="support",
                input=MESSAGE,
                stream=True,
                extra_body={"logit_bias": {"99999999": 1}},
            )
        )


def test_keys_and_limits(url: str, poor_key: str) -> None:
    with (
        OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
    with (
        OpenAI(base_url=f"{url}/v1", api_key=poor_key, max_retries=0) as poor,
        pytest.raises(openai.RateLimitError) as limited,
    ):
        poor.chat.completions.create(model="support", **GREEDY)
    assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
