"""Keys at a real vLLM, with the clients people have."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import openai
import pytest
from anthropic import Anthropic, RateLimitError
from openai import OpenAI

from tests.e2e.shut import ADMIN, HF_TOKEN, Shut
from tests.waiting import wait

LONG = "Tell me about the weather in Spain and in France, day by day. " * 24


def made(shut: Shut, name: str, *allow: str, **limits: int) -> str:
    """Make a key and wait until the server takes it."""
    _, secret = shut.journal.create(name, allow=allow, **limits)  # type: ignore[arg-type]
    headers = {"authorization": f"Bearer {secret}"}
    wait(lambda: httpx.get(f"{shut.url}/version", headers=headers).is_success)
    return secret


def ask(client: OpenAI, model: str, message: str = "Hello.", **options: object) -> str:
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": message}],
        max_tokens=4,
        **options,  # type: ignore[call-overload]
    )
    return str(reply.model)


def spend(ask: Callable[[], object]) -> None:
    """Ask until it is refused; where asking is slow, some requests come back meanwhile."""
    for _ in range(99):
        ask()


def test_two_keys_share_nothing_in_the_prefix_cache_and_one_does(shut: Shut) -> None:
    one, two = (shut.client(made(shut, name, "*")) for name in ("one", "two"))

    def found(client: OpenAI, model: str, **extra: object) -> float:
        before = shut.cached_tokens()
        ask(client, model, LONG, extra_body=extra)
        return shut.cached_tokens() - before

    for model in ("support", "tiny"):
        assert found(one, model) == 0
        assert found(two, model) == 0, "what one asked, two cannot tell"
        assert found(one, model) > 0
        assert found(two, model) > 0
        assert found(one, model, cache_salt="apart") == 0
        assert found(two, model, cache_salt="apart") == 0
        assert found(one, model, cache_salt="apart") > 0
    admin = shut.client(ADMIN)
    assert found(admin, "support") == 0
    assert found(admin, "support") > 0


def test_clients_meet_their_own_errors(shut: Shut) -> None:
    client = shut.client(made(shut, "web", "support*", rpm=7))
    ids = {model.id.partition("@")[0] for model in client.models.list()}
    assert ids == {"support"}
    assert ask(client, "support").startswith("support@v1+")
    said = []
    for hidden in ("fleet-1", "nobody-1", "tiny"):
        with pytest.raises(openai.NotFoundError) as missing:
            ask(client, hidden)
        said.append(str(missing.value).replace(hidden, "X"))
    assert len(set(said)) == 1
    with pytest.raises(openai.AuthenticationError):
        ask(shut.client("wrong"), "support")
    with pytest.raises(openai.RateLimitError) as refused:
        spend(lambda: ask(client, "support"))
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 9
    with Anthropic(base_url=shut.url, api_key=client.api_key, max_retries=0) as other:
        with pytest.raises(RateLimitError) as limited:
            spend(
                lambda: other.messages.create(
                    model="support", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
                )
            )
        assert "rate_limit_error" in str(limited.value)


def test_tokens_are_charged_as_vllm_counts_them(shut: Shut) -> None:
    limit = 600  # ten come back each second, so the time it takes blurs little
    told = 0
    for name in ("whole", "stream"):
        secret = made(shut, name, "support", tpm=limit)
        client, began = shut.client(secret), time.monotonic()
        asked = {
            "model": "support",
            "messages": [{"role": "user", "content": LONG}],
            "max_tokens": 20,
            "extra_body": {"ignore_eos": True},
        }
        if name == "whole":
            told = client.chat.completions.create(**asked).usage.total_tokens  # type: ignore
        else:
            chunks = list(client.chat.completions.create(**asked, stream=True))  # type: ignore
            assert all(chunk.usage is None and chunk.choices for chunk in chunks), "not asked for"
        headers = client.models.with_raw_response.list().headers
        gained = (time.monotonic() - began) * limit / 60
        charged = limit - int(headers["x-ratelimit-remaining-tokens"])
        assert headers["x-ratelimit-limit-tokens"] == str(limit)
        assert told - gained - 1 <= charged <= told, name
        assert told > gained + 100, "too slow to tell"


def test_a_revoked_key_opens_nothing_any_more(shut: Shut) -> None:
    client = shut.client(made(shut, "short", "*"))
    ask(client, "support")
    shut.journal.revoke("short")

    def opens_nothing() -> bool:
        try:
            ask(client, "support")
        except openai.AuthenticationError:
            return True
        return False

    wait(opens_nothing)


def test_secrets_and_prompts_are_shown_nowhere(shut: Shut) -> None:
    """Neither to those who read logs and metrics nor to another client, whatever went wrong."""
    secret, prompt = made(shut, "quiet", "*"), "the launch code is 0000"
    key = next(key for key in shut.journal.read() if key.name == "quiet")
    turns = [{"role": "user", "content": prompt}]
    wrong = [
        {"model": "support", "messages": turns, "max_tokens": 2},
        {"model": "support", "messages": turns, "max_tokens": 2, "stream": True},
        {"model": prompt, "messages": turns},
        {"model": "support", "messages": prompt},
        {"model": "support", "messages": [{"role": prompt, "content": {prompt: prompt}}]},
        {"model": "support", "messages": [{"role": "user", "content": f"{prompt} " * 9999}]},
        {"model": "support", "messages": turns, "temperature": prompt, "stop": {prompt: secret}},
        {"model": "support", "messages": turns, "structured_outputs": {"regex": f"({prompt}"}},
    ]
    with httpx.Client(base_url=shut.url, headers={"authorization": f"Bearer {secret}"}) as http:
        for content in wrong:
            http.post("/v1/chat/completions", json=content, timeout=30)
        http.post("/v1/completions", content=f'{{"prompt": "{prompt}')
        http.get("/v1/models/none", params={"key": secret, "prompt": prompt})
        http.post("/v1/chat/completions", json=wrong[0], headers={"x-api-key": f"{secret}x"})
    admin = {"authorization": f"Bearer {ADMIN}"}
    shown = [
        httpx.get(f"{shut.url}/{path}", headers=admin).text
        for path in ("metrics", "v1/models", "v1/adapters", "ready", "health")
    ]
    home = shut.journal.path.parent
    shown += [path.read_text() for path in (home / "server.log", *(home / "logs").iterdir())]
    for canary in (secret, key.sha256, ADMIN, HF_TOKEN, prompt):
        assert not [text for text in shown if canary in text], canary
