"""What one request asks of the engine beside its body: whose name to answer by, how much to read.

The gate says it in this context, and the engine's code, which runs in it, looks it up.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from serve.http.asgi import ASGIApp, Message, Receive, Scope, Send, path_of
from serve.http.failures import RequestRefused, event


@dataclass(slots=True)
class Terms:
    """The terms of one request."""

    answers_as: str
    """What `model` in the answer says, whatever the engine was asked for."""
    max_model_len: int | None = None
    """The most tokens of prompt and answer together; None: as many as the engine takes."""
    refusal: RequestRefused | None = None
    """Why the engine may not go on, or what it found wrong with the request."""

    def check(self, prompt_tokens: int) -> None:
        """Refuse a prompt that leaves no room for an answer.

        Raises:
            RequestRefused: 400, OpenAI's `context_length_exceeded`.
        """
        if self.max_model_len is not None and prompt_tokens >= self.max_model_len:
            self.refusal = RequestRefused(
                400,
                f"This model's maximum context length is {self.max_model_len} tokens, and the "
                f"prompt has {prompt_tokens}.",
                fix="Send fewer.",
                param="messages",
                code="context_length_exceeded",
            )
            raise self.refusal

    def room(self, prompt_tokens: int, wanted: int | None) -> int | None:
        """Return how many tokens the answer may have; None: as many as the engine gives."""
        if self.max_model_len is None:
            return wanted
        left = max(1, self.max_model_len - prompt_tokens)
        return left if wanted is None else min(wanted, left)


TERMS: ContextVar[Terms | None] = ContextVar("terms", default=None)
"""Of the request that is being answered; None: nobody said any."""


async def ask(app: ASGIApp, terms: Terms, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the app behind answer on these terms.

    A stream's start waits for its first event: until then it can still be refused with a status.

    Raises:
        RequestRefused: the engine may not go on, or found the request wrong. Nothing was sent then;
            a stream that had begun says it in its last event.
    """
    start: Message | None = None
    begun = False

    async def sending(message: Message) -> None:
        nonlocal start, begun
        if not begun:
            if terms.refusal:
                return  # it is the app's own word for the refusal
            if message["type"] == "http.response.start":
                start = message
                return
            if start:
                await send(start)
            begun = True
        await send(message)

    before = TERMS.set(terms)
    try:
        await app(scope, receive, sending)
    except Exception:
        if terms.refusal is None:
            raise
        if begun:  # a stream, which the app would cut off without a word
            await send({"type": "http.response.body", "body": event(terms.refusal, path_of(scope))})
    finally:
        TERMS.reset(before)
    if terms.refusal and not begun:
        raise terms.refusal
