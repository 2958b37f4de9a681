"""What a client or a disk does wrong: a clear answer, and everybody else gets theirs.

After every case the base and another adapter are asked.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.registry import Registry
from adapters.types import Version
from loadtests import fleet
from tests.waiting import wait

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 2}
LEAVERS = int(os.environ.get("LEAVERS", "200"))


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    """A bare client; whatever a test does, the base and another adapter answer afterwards."""
    with httpx.Client(base_url=url, timeout=60) as http:
        yield http
        for model in ("tiny", "fleet-7"):
            reply = http.post(CHAT, json=HELLO | {"model": model})
            assert reply.status_code == 200, reply.text


def large(size_bytes: int) -> bytes:
    return json.dumps(HELLO | {"model": "tiny", "user": "x" * size_bytes}).encode()


NESTED = "[" * 900 + "]" * 900  # within what Python reads
BODIES: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "gzip": (400, gzip.compress(large(10)), {"content-encoding": "gzip"}),
    "33 MiB": (413, large(33 << 20), {}),
    "a bomb": (413, gzip.compress(bytes(256 << 20)) * 150, {"content-encoding": "gzip"}),
    "too deep": (400, b'{"model":"tiny","messages":' + b"[" * 100_000, {}),
    "deep": (400, f'{{"model":"tiny","messages":{NESTED}}}'.encode(), {}),
    "deep in a field": (400, f'{{"model":"tiny","messages":[],"x":{NESTED}}}'.encode(), {}),
    "a number of a million digits": (400, b'{"model":"tiny","n":' + b"9" * 1_000_000 + b"}", {}),
    "a lone surrogate": (400, rb'{"model":"tiny","max_tokens":2,"messages":'
                         rb'[{"role":"user","content":"\ud83d"}]}', {}),
}  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    "100 000 messages": {"messages": HELLO["messages"] * 100_000},  # type: ignore[operator]
    "a prompt of 8 MB": {"messages": [{"role": "user", "content": "word " * 1_600_000}]},
    "16 384 answers": {"n": 16_384, "temperature": 1},
    "no answer": {"n": 0},
    "less than none": {"n": -1},
    "a biased vocabulary": {"logit_bias": {str(token): 1 for token in range(1_000_000)}},
    "100 000 stops": {"stop": [f"stop {number}" for number in range(100_000)]},
    "a stop of 1 MB": {"stop": "x" * 1_000_000},
    "all logprobs": {"logprobs": True, "top_logprobs": 1_000_000},
    "a tool that is none": {"tools": [{"type": "function", "function": {"name": None}}]},
    "a schema that nothing fits": {"response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"$ref": "#"}}}},
    "a pattern that explodes": {"structured_outputs": {"regex": "(a+)+" * 12 + "$"}},
    "a picture from elsewhere": {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]}]},
    "a file of this machine": {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
}  # fmt: skip


@pytest.mark.parametrize("how", BODIES)
def test_a_body_made_to_harm(http: httpx.Client, how: str) -> None:
    status, content, headers = BODIES[how]
    headers = {"content-type": "application/json", **headers}
    reply = http.post(CHAT, content=content, headers=headers)
    assert reply.status_code == status, reply.text[:500]


@pytest.mark.parametrize("how", FIELDS)
def test_a_field_made_to_harm(http: httpx.Client, how: str) -> None:
    """While it is dealt with, health answers."""
    asked = HELLO | {"model": "support"} | FIELDS[how]
    with ThreadPoolExecutor(1) as beside:
        answering = beside.submit(http.post, CHAT, json=asked)
        while not answering.done():
            assert http.get("/health").is_success
            time.sleep(0.05)
    reply = answering.result()
    assert reply.status_code < 500, reply.text[:500]


def test_clients_that_leave(http: httpx.Client) -> None:
    """`LEAVERS=1000` for as many. None of them keeps a place in the engine."""
    asked = HELLO | {"stream": True, "max_tokens": 500, "ignore_eos": True}

    def leave(number: int) -> None:
        model = ("tiny", "support", "fleet-1", "fleet-2")[number % 4]
        with http.stream("POST", CHAT, json=asked | {"model": model}) as reply:
            if number % 2:
                next(reply.iter_raw())  # the others leave before there is anything

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(leave, range(LEAVERS)))
    wait(lambda: not running(http), otherwise=lambda: running(http))


def running(http: httpx.Client) -> dict[str, float]:
    """Return what vLLM and what we count of requests under way, where it is not 0."""
    text = http.get("/metrics").text
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in ("vllm:num_requests_running", "vllm:num_requests_waiting",
                           "switchyard_requests_running") and sample.value
    }  # fmt: skip


def bytes_of(version: Version, name: str, alter: Callable[[bytes], bytes]) -> None:
    path = version.path / name
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(alter(content))


def deleted(version: Version) -> None:
    (version.path / "adapter_model.safetensors").unlink()


def flipped(version: Version) -> None:
    def flip(content: bytes) -> bytes:
        return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]

    bytes_of(version, "adapter_model.safetensors", flip)


def cut(version: Version) -> None:
    bytes_of(version, "adapter_model.safetensors", lambda content: content[: len(content) // 2])


def linked(version: Version) -> None:
    path = version.path / "adapter_model.safetensors"
    path.rename(version.path.parent / "same.safetensors")
    path.symlink_to(version.path.parent / "same.safetensors")


def piped(version: Version) -> None:
    deleted(version)
    os.mkfifo(version.path / "adapter_model.safetensors")


def listened(version: Version) -> None:
    """A socket where the configuration was."""
    (version.path / "adapter_config.json").unlink()
    here = os.getcwd()
    os.chdir(version.path)  # such a path has at most 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind("adapter_config.json")
    finally:
        os.chdir(here)


def added(version: Version) -> None:
    (version.path / "adapter_model.bin").write_bytes(b"\x80\x04.")


def reconfigured(version: Version) -> None:
    bytes_of(version, "adapter_config.json", lambda content: content.replace(b"16", b"NaN", 1))


DAMAGES = [deleted, flipped, cut, linked, piped, listened, reconfigured, added]
"""What is added to a loaded version is not read, and not looked for."""


@pytest.fixture(scope="module")
def victims(registry: Registry) -> dict[str, Version]:
    """Two versions for each damage: one is loaded when it comes, the other is not."""
    names = [f"{when}-{damage.__name__}" for damage in DAMAGES for when in ("loaded", "known")]
    made = {version.name: version for version in fleet.publish(registry, names)}
    for version in made.values():
        version.path.chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("damage", "when"),
    [(damage, when) for damage in DAMAGES for when in ("known", "loaded")][:-1],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_files_that_are_not_what_was_published(
    http: httpx.Client, victims: dict[str, Version], damage: Callable[[Version], None], when: str
) -> None:
    version = victims[f"{when}-{damage.__name__}"]
    wait(lambda: http.get(f"/v1/adapters/{version.ref}").is_success)
    if when == "loaded":
        assert http.post(CHAT, json=HELLO | {"model": version.name}).is_success
    damage(version)

    def refused() -> httpx.Response | None:
        reply = http.post(CHAT, json=HELLO | {"model": version.name})
        if not reply.is_success:
            return reply
        assert when == "loaded", "it was never what was published"
        return None

    reply = wait(refused, otherwise=lambda: "looked at once a second while it is used")
    assert reply.status_code == 503
    error = reply.json()["error"]
    assert version.ref in error["message"]
    assert str(version.path) not in error["message"], "paths are not for clients"
    assert http.get(f"/v1/adapters/{version.ref}").json()["state"] == "refused"
