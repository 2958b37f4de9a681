"""Serving defaults and prompt-only versions in the real vLLM, on every endpoint that generates.

An answer under a version's defaults is the one that its weights give to a request that says all
of it itself; and it bears the version's own name, in every chunk of a stream.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters import bases
from adapters.prompts import publish_prompt
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version
from tests.waiting import wait

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
SHOTS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
CHOSEN: dict[str, Any] = {
    "system": "You answer in German.",
    "shots": SHOTS,
    "temperature": 0,
    "repetition_penalty": 1.1,
    "max_tokens": 12,
    "stop": ["zz"],
}
ASK = {"role": "user", "content": "Where is the station?"}
SYSTEM = {"role": "system", "content": CHOSEN["system"]}
SAMPLED = {"temperature": 0, "repetition_penalty": 1.1}

CHAT, BATCH = "/v1/chat/completions", "/v1/chat/completions/batch"
COMPLETIONS, RESPONSES, MESSAGES = "/v1/completions", "/v1/responses", "/v1/messages"
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    CHAT: (
        {"messages": [ASK]},
        {"messages": [SYSTEM, *SHOTS, ASK], "max_tokens": 12, "stop": ["zz"], **SAMPLED},
    ),
    BATCH: (
        {"messages": [[ASK]]},
        {"messages": [[SYSTEM, *SHOTS, ASK]], "max_tokens": 12, "stop": ["zz"], **SAMPLED},
    ),
    COMPLETIONS: (
        {"prompt": "Where is"},
        {"prompt": "Where is", "max_tokens": 12, "stop": ["zz"], **SAMPLED},
    ),
    RESPONSES: (
        {"input": ASK["content"]},
        {
            "instructions": CHOSEN["system"], "input": [*SHOTS, ASK],
            "max_output_tokens": 12, "stop": ["zz"], **SAMPLED,
        },
    ),
    MESSAGES: (
        {"messages": [ASK], "max_tokens": 9},
        {
            "system": CHOSEN["system"], "messages": [*SHOTS, ASK], "max_tokens": 9,
            "stop_sequences": ["zz"], "temperature": 0,
        },
    ),
}  # fmt: skip
"""What a client asks a version with these defaults, and what it would ask without."""


@pytest.fixture(scope="module")
def versions(registry: Registry, url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By name: the version, and what answers for it without its defaults."""
    folder = tmp_path_factory.mktemp("cool") / "adapter"
    shutil.copytree(registry.resolve("fleet-0").path, folder)
    folder.chmod(0o755)
    (folder / "manifest.json").unlink()
    (folder / "serving.json").write_text(json.dumps(CHOSEN))
    cool = registry.publish("cool", folder, base=bases.resolve("tiny").model)
    chosen = Serving.from_json(CHOSEN)
    made = {
        "cool": (cool, "fleet-0"),
        "over-base": (publish_prompt(registry, "over-base", chosen, base="tiny"), "tiny"),
        "over-version": (publish_prompt(registry, "over-version", chosen, on="fleet-1"), "fleet-1"),
        "narrow": (_prompt(registry, "narrow", max_model_len=64), "tiny"),
        "formed": (
            _prompt(
                registry,
                "formed",
                response_format={
                    "type": "json_schema", "json_schema": {"name": "ok", "schema": SCHEMA}
                },
            ),
            "tiny",
        ),
    }  # fmt: skip
    wait(lambda: httpx.get(f"{url}/v1/models/formed").is_success)
    return made


def _prompt(registry: Registry, name: str, **chosen: Any) -> Version:
    return publish_prompt(registry, name, Serving.from_json(chosen), base="tiny")


def post(url: str, path: str, model: str, content: Mapping[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}{path}", json={"model": model, **content}, timeout=120)


def said(path: str, answer: Mapping[str, Any]) -> str:
    if path == RESPONSES:
        return "".join(part["text"] for item in answer["output"] for part in item["content"])
    if path == MESSAGES:
        return "".join(part["text"] for part in answer["content"])
    choice = answer["choices"][0]
    return str(choice["text"] if path == COMPLETIONS else choice["message"]["content"])


@pytest.mark.parametrize("name", ["cool", "over-base", "over-version"])
@pytest.mark.parametrize("path", list(ASKED))
def test_an_answer_is_that_to_a_request_that_says_it_all(
    url: str, versions: Any, path: str, name: str
) -> None:
    version, weights = versions[name]
    short, whole = ASKED[path]
    reply = post(url, path, name, short)
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == reply.headers["x-adapter"] == version.engine_name
    expected = post(url, path, weights, whole)
    assert said(path, reply.json()) == said(path, expected.json())
    assert said(path, reply.json())


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_every_chunk_of_a_stream_bears_the_name(url: str, versions: Any, path: str) -> None:
    version, _ = versions["over-version"]
    reply = post(url, path, "over-version", {**ASKED[path][0], "stream": True})
    lines = [line for line in reply.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    carriers = [event.get("response") or event.get("message") or event for event in events]
    models = {carrier["model"] for carrier in carriers if "model" in carrier}
    assert models == {version.engine_name}
    assert len(events) > 3


def test_counts_agree_with_what_is_answered(url: str, versions: Any) -> None:
    for name in ("cool", "over-base", "over-version"):
        usage = post(url, CHAT, name, {"messages": [ASK]}).json()["usage"]
        counted = post(url, "/tokenize", name, {"messages": [ASK]}).json()["count"]
        messages = post(url, f"{MESSAGES}/count_tokens", name, {"messages": [ASK]}).json()
        assert usage["prompt_tokens"] == counted == messages["input_tokens"]


def test_a_requests_own_fields_win(url: str, versions: Any) -> None:
    own: dict[str, Any] = {
        "messages": [{"role": "system", "content": "Mine."}, ASK],
        "max_tokens": 3,
    }
    reply = post(url, CHAT, "cool", own).json()
    assert reply["usage"]["completion_tokens"] <= 3
    alone = {**own, "messages": [own["messages"][0], *SHOTS, ASK], **SAMPLED}
    assert said(CHAT, reply) == said(CHAT, post(url, CHAT, "fleet-0", alone).json())


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_a_versions_context_is_refused(
    url: str, versions: Any, path: str, stream: bool
) -> None:
    long = "word " * 80
    contents: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": long}]},
        COMPLETIONS: {"prompt": long},
        RESPONSES: {"input": long},
        MESSAGES: {"messages": [{"role": "user", "content": long}], "max_tokens": 9},
    }
    content = contents[path] | {"stream": stream}
    reply = post(url, path, "narrow", content)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert "maximum context length is 64 tokens" in error["message"]
    if path != MESSAGES:
        assert error["code"] == "context_length_exceeded"
    assert post(url, path, "tiny", content).status_code == 200


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_an_answer_ends_where_a_versions_context_does(url: str, versions: Any, path: str) -> None:
    more = {"ignore_eos": True, "temperature": 0}
    usage = post(url, path, "narrow", {**ASKED[path][0], **more}).json()["usage"]
    assert usage["total_tokens"] == 64


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_a_structure_is_kept_on_every_endpoint(url: str, versions: Any, path: str) -> None:
    longest = {"max_output_tokens": 40} if path == RESPONSES else {"max_tokens": 40}
    reply = post(url, path, "formed", {**ASKED[path][0], **longest, "temperature": 0})
    assert reply.status_code == 200, reply.text
    text = said(path, reply.json())  # JSON lets blanks follow, which may be all of the rest
    assert re.match(r'\s*\{\s*"ok"\s*:\s*(true|false)\s*(\}|$)', text), text


def test_a_conversation_goes_on_under_a_prompt(url: str, versions: Any) -> None:
    """vLLM stores responses only where it is asked to; without, the id is unknown to it."""
    reply = post(url, RESPONSES, "over-base", {"input": "Hi", "previous_response_id": "resp_x"})
    assert reply.status_code in (400, 404)


def test_nobody_but_the_version_bears_its_name(url: str, versions: Any, home: Path) -> None:
    assert post(url, CHAT, "tiny", {"messages": [ASK], "max_tokens": 1}).json()["model"] == "tiny"
    listed = httpx.get(f"{url}/v1/models/over-version").json()
    assert listed["parent"].startswith("fleet-1@v1+")
    assert str(home) not in json.dumps(listed)
