"""Every endpoint and field answers by the adapter that was asked for; what harms is a 400."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adapters.registry import Registry
from tests.e2e.conftest import MAX_TOKENS, Reference

MESSAGE = "What is the capital of Spain?"
MESSAGES = [{"role": "user", "content": MESSAGE}]
PROMPT = f"<|im_start|>user\n{MESSAGE}<|im_end|>\n<|im_start|>assistant\n"
MODEL = "support@v1"
CHAT = {"model": MODEL, "messages": MESSAGES, "max_tokens": MAX_TOKENS, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["glad", "sad"]}, "urgent": {"type": "boolean"}},
    "required": ["mood", "urgent"],
    "additionalProperties": False,
}
VERDICTS = [
    f'{{"mood":"{mood}","urgent":{urgent}}}'
    for mood in ("glad", "sad")
    for urgent in ("true", "false")
]
NAMED = {"name": "verdict", "schema": SCHEMA}
JSON = {"content-type": "application/json"}
HUGE = {"type": "array", "items": {"type": "integer"}, "minItems": 1 << 40}


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as http:
        yield http


def ask(http: httpx.Client, path: str, content: dict[str, Any]) -> dict[str, Any]:
    reply = http.post(path, json=content)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_many_conversations_in_one_request(
    http: httpx.Client, registry: Registry, reference: Reference
) -> None:
    asked = [MESSAGE, "Name three birds."]
    turns = [[{"role": "user", "content": text}] for text in asked]
    reply = ask(http, "/v1/chat/completions/batch", {**CHAT, "messages": turns})
    version = registry.resolve(MODEL)
    answers = [choice["message"]["content"] for choice in reply["choices"]]
    assert answers == [reference(version, text) for text in asked]


def test_several_answers_with_the_versions_own_logprobs(http: httpx.Client) -> None:
    fields = {
        "n": 2,
        "seed": 1,
        "temperature": 1,
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 2,
    }

    def logprobs(model: str) -> list[list[float]]:
        reply = ask(http, "/v1/chat/completions", {**CHAT, **fields, "model": model})
        return [[t["logprob"] for t in c["logprobs"]["content"]] for c in reply["choices"]]

    mine = logprobs(MODEL)
    assert len(mine) == 2
    assert all(value <= 0 for answer in mine for value in answer)
    assert logprobs("support@v2") != mine != logprobs("tiny")


def test_a_stream_says_what_it_took_where_it_is_asked_to(http: httpx.Client) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", "/v1/chat/completions", json={**CHAT, **fields}) as reply:
        events = [line[6:] for line in reply.iter_lines() if line.startswith("data: {")]
    usage = ask(http, "/v1/chat/completions", CHAT)["usage"]
    assert json.loads(events[-1])["usage"]["completion_tokens"] == usage["completion_tokens"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
        ),
        ("/v1/chat/completions", {"structured_outputs": {"json": SCHEMA}}),
        (
            "/v1/responses",
            {"input": MESSAGE, "text": {"format": {"type": "json_schema", **NAMED}}},
        ),
        ("/v1/completions", {"prompt": PROMPT, "structured_outputs": {"regex": "(glad|sad)"}}),
    ],
)  # fmt: skip
def test_structured_output(http: httpx.Client, path: str, fields: dict[str, Any]) -> None:
    content = {"model": MODEL, "temperature": 0, "max_tokens": 60, **fields}
    if "input" in fields:
        content["max_output_tokens"] = content.pop("max_tokens")
    elif "prompt" not in fields:
        content["messages"] = MESSAGES
    reply = ask(http, path, content)
    if path == "/v1/responses":
        said = reply["output"][-1]["content"][0]["text"]
    elif path == "/v1/completions":
        assert reply["choices"][0]["text"] in ("glad", "sad")
        return
    else:
        said = reply["choices"][0]["message"]["content"]
    # JSON may have spaces, and an untrained adapter may go on with them until its tokens are spent.
    squeezed = "".join(said.split())
    assert squeezed
    assert any(verdict.startswith(squeezed) for verdict in VERDICTS), said


def test_counts_of_tokens_agree(http: httpx.Client) -> None:
    usage = ask(http, "/v1/chat/completions", CHAT)["usage"]["prompt_tokens"]
    tokens = ask(http, "/tokenize", {"model": MODEL, "messages": MESSAGES})["tokens"]
    counted = ask(http, "/v1/messages/count_tokens", {"model": MODEL, "messages": MESSAGES})
    assert usage == len(tokens) == counted["input_tokens"]
    text = ask(http, "/detokenize", {"model": MODEL, "tokens": tokens})["prompt"]
    assert MESSAGE in text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        # Kills vLLM's engine on a CPU, each of them.
        {"prompt_logprobs": 1},
        {"prompt_logprobs": False},
        {"echo": True},
        {"echo": "yes", "logprobs": True, "top_logprobs": 2},
        # Kills its API server: all memory goes to a grammar.
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": HUGE}}},
        # Vexes it: a 500, or a stream that begins with 200.
        {"structured_outputs": ["regex"]},
        {"structured_outputs": {"grammar": "root ::= root"}},
        {"structured_outputs": {"structural_tag": "{}"}},
        {"top_k": 1 << 70},
        {"stop": ["\ud800"]},
        {"bad_words": ["\ud800"]},
        {"logit_bias": {"99999999": 1}},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)  # fmt: skip
def test_what_would_harm_the_engine_or_vex_it_is_a_400(
    http: httpx.Client, fields: dict[str, Any], stream: bool
) -> None:
    content = json.dumps({**CHAT, **fields, "stream": stream})
    reply = http.post("/v1/chat/completions", content=content, headers=JSON)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["message"]
    alive = http.post("/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 2})
    assert alive.status_code == 200


def test_a_stream_of_responses_ends_with_what_was_wrong(http: httpx.Client) -> None:
    content = {"model": MODEL, "input": MESSAGE, "stream": True, "logit_bias": {"99999999": 1}}
    reply = http.post("/v1/responses", json=content)
    assert "99999999" in reply.text.strip().splitlines()[-1]


def test_a_base_that_generates_says_that_it_does_not_embed(http: httpx.Client) -> None:
    reply = http.post("/v1/embeddings", json={"model": MODEL, "input": "hello"})
    assert reply.status_code == 404
    assert "/v1/embeddings" in reply.json()["error"]["message"]


def test_the_document_names_what_this_base_has(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/responses/{response_id}", "/v1/adapters"} <= paths.keys()
    assert not {"/v1/embeddings", "/invocations", "/scale_elastic_ep"} & paths.keys()
