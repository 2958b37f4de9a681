"""Genuine clients, unchanged: openai, anthropic, curl."""

from __future__ import annotations

import json
import subprocess

import pytest
from anthropic import Anthropic
from openai import OpenAI

from adapters.registry import Registry
from tests.e2e.conftest import MAX_TOKENS, Reference

MESSAGE = "What is the capital of Spain?"
MODELS = ["tiny", "fleet-1", "fleet-1@v1", "fleet-1@latest", "support@production"]


@pytest.mark.parametrize("model", MODELS)
def test_openai_chat(client: OpenAI, registry: Registry, reference: Reference, model: str) -> None:
    version = None if model == "tiny" else registry.resolve(model)
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": MESSAGE}],
        max_tokens=MAX_TOKENS,
        temperature=0,
    )
    assert reply.choices[0].message.content == reference(version, MESSAGE)
    assert reply.model == (version.engine_name if version else "tiny")


def test_openai_chat_streamed(client: OpenAI, registry: Registry, reference: Reference) -> None:
    stream = client.chat.completions.create(
        model="fleet-2",
        messages=[{"role": "user", "content": MESSAGE}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
    )
    chunks = [chunk for chunk in stream if chunk.choices]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == reference(registry.resolve("fleet-2"), MESSAGE)
    assert len(chunks) > 2


def test_openai_completions(client: OpenAI, registry: Registry, reference: Reference) -> None:
    reply = client.completions.create(
        model="fleet-3",
        prompt=f"<|im_start|>user\n{MESSAGE}<|im_end|>\n<|im_start|>assistant\n",
        max_tokens=MAX_TOKENS,
        temperature=0,
    )
    assert reply.choices[0].text == reference(registry.resolve("fleet-3"), MESSAGE)


def test_openai_responses(client: OpenAI, registry: Registry, reference: Reference) -> None:
    reply = client.responses.create(
        model="fleet-4", input=MESSAGE, max_output_tokens=MAX_TOKENS, temperature=0
    )
    assert reply.output_text == reference(registry.resolve("fleet-4"), MESSAGE)


def test_openai_models(client: OpenAI, registry: Registry, home: object) -> None:
    listed = {model.id: model for model in client.models.list()}
    version = registry.resolve("support@v2")
    assert {"tiny", "support", "support@production", "support@v2", "fleet-7"} <= listed.keys()
    assert client.models.retrieve("support@v2").id == "support@v2"
    assert client.models.retrieve(version.engine_name)
    assert str(home) not in json.dumps([model.model_dump() for model in listed.values()])


def test_anthropic_messages(url: str, registry: Registry, reference: Reference) -> None:
    with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        reply = client.messages.create(
            model="fleet-5",
            messages=[{"role": "user", "content": MESSAGE}],
            max_tokens=MAX_TOKENS,
            extra_body={"temperature": 0},
        )
        with client.messages.stream(
            model="fleet-5",
            messages=[{"role": "user", "content": MESSAGE}],
            max_tokens=MAX_TOKENS,
            extra_body={"temperature": 0},
        ) as stream:
            streamed = "".join(stream.text_stream)
    expected = reference(registry.resolve("fleet-5"), MESSAGE)
    assert reply.content[0].text == streamed == expected


def test_curl(url: str, registry: Registry, reference: Reference) -> None:
    body = {
        "model": "fleet-6",
        "messages": [{"role": "user", "content": MESSAGE}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    done = subprocess.run(
        ["curl", "-sSi", f"{url}/v1/chat/completions", "-H", "content-type: application/json",
         "-d", json.dumps(body)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    head, _, content = done.stdout.partition("\n\n")
    version = registry.resolve("fleet-6")
    assert f"x-adapter: {version.engine_name}" in head.lower()
    assert json.loads(content)["choices"][0]["message"]["content"] == reference(version, MESSAGE)
