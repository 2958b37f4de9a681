"""Charges a request's tokens to its key: an estimate before it runs, what it took afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from adapters.errors import AdaptersError
from serve.http.asgi import Message, Send
from serve.http.usage import Tally
from serve.tenants.estimate import answer_tokens, costs, prompt_tokens
from serve.tenants.rates import Allowance


@contextmanager
def metered(
    allowance: Allowance | None, path: str, content: Mapping[str, Any], send: Send, tally: Tally
) -> Iterator[Send]:
    """Yield the `send` to answer through while a request runs.

    The estimate is held back meanwhile, so that many requests at once cannot run far over: an
    answer longer than it was estimated is owed. What is refused or fails costs nothing; a stream
    that broke off what `tally` has seen of it; an answer that was not waited for the estimate. A
    key without a limit on tokens is not charged.

    Raises:
        RateLimited: the estimate is not there yet.
    """
    if allowance is None or not allowance.counts_tokens or not costs(path):
        yield send
        return
    prompt = prompt_tokens(content)
    reserved = prompt + answer_tokens(path, content)
    allowance.reserve_tokens(reserved)
    spent, failed = reserved, False

    async def sending(message: Message) -> None:
        nonlocal failed
        if message["type"] == "http.response.start":
            failed = message["status"] >= 400
        await send(message)

    try:
        yield sending
    except AdaptersError:
        failed = True
        raise
    finally:
        if failed:
            spent = 0
        elif tally.prompt_tokens or tally.completion_tokens:
            spent = (tally.prompt_tokens or prompt) + tally.completion_tokens
        allowance.settle_tokens(reserved, spent)
