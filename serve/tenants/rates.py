"""Token buckets: how much a key may ask for, and what its answers say of what is left.

A bucket holds a minute's worth and fills up evenly, so a key that was silent may spend a minute's
worth at once, and never more than that above its rate. Times are seconds of one monotonic clock.
Each server counts for itself: a key's limits hold per process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from serve.http.asgi import Header, Message, Send
from serve.http.failures import RateLimited

_MINUTE_S = 60.0
_EPSILON = 1e-6  # a client that waits exactly as long as it was told finds enough


class Bucket:
    """Holds up to `limit` and gets as much back in each minute."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._then = now

    def take(self, amount: float, now: float) -> float:
        """Take so much out, at most all it can hold.

        Returns 0 where it was there; else the seconds until it will be, and takes nothing.
        """
        needed = min(amount, self.limit)
        self._fill(now)
        if self._level + _EPSILON < needed:
            return (needed - self._level) / self.limit * _MINUTE_S
        self._level -= needed
        return 0.0

    def settle(self, taken: float, spent: float, now: float) -> None:
        """Say what was spent in the end where `take` took an estimate.

        More than it held is owed, and comes off what the next minutes bring.
        """
        self._fill(now)
        self._level = min(self.limit, self._level + min(taken, self.limit) - spent)

    def remaining(self, now: float) -> int:
        """Return what is left, 0 where something is owed."""
        self._fill(now)
        return max(0, math.floor(self._level + _EPSILON))

    def full_in_s(self, now: float) -> float:
        """Return how long it takes to fill up if nothing more is taken."""
        self._fill(now)
        return (self.limit - self._level) / self.limit * _MINUTE_S

    def _fill(self, now: float) -> None:
        gained = max(0.0, now - self._then) / _MINUTE_S * self.limit
        self._level, self._then = min(self.limit, self._level + gained), now


class Allowance:
    """What one key may ask for: requests, tokens, both or neither. Lives on the event loop."""

    def __init__(
        self, rpm: int | None, tpm: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._buckets = {
            resource: Bucket(limit, clock())
            for resource, limit in (("requests", rpm), ("tokens", tpm))
            if limit is not None
        }

    @property
    def counts_tokens(self) -> bool:
        """Whether anybody needs to know what a request costs in tokens."""
        return "tokens" in self._buckets

    def take_request(self) -> None:
        """Count one request, whatever becomes of it.

        Raises:
            RateLimited: too many in this minute.
        """
        self._take("requests", 1)

    def reserve_tokens(self, tokens: int) -> None:
        """Take what a request may cost, until `settle_tokens` says what it did.

        Raises:
            RateLimited: so much is not there yet.
        """
        self._take("tokens", tokens)

    def settle_tokens(self, reserved: int, spent: int) -> None:
        """Give back what was reserved and not spent, or take what was spent beyond it."""
        if bucket := self._buckets.get("tokens"):
            bucket.settle(reserved, spent, self._clock())

    def headers(self) -> list[Header]:
        """Return OpenAI's headers: limit, what is left, and when all of it is back."""
        now = self._clock()
        return [
            (f"x-ratelimit-{what}-{resource}".encode(), value.encode())
            for resource, bucket in self._buckets.items()
            for what, value in (
                ("limit", str(bucket.limit)),
                ("remaining", str(bucket.remaining(now))),
                ("reset", duration(bucket.full_in_s(now))),
            )
        ]

    def _take(self, resource: str, amount: int) -> None:
        bucket = self._buckets.get(resource)
        if bucket and (wait_s := bucket.take(amount, self._clock())):
            left = bucket.remaining(self._clock())
            raise RateLimited(
                f"Rate limit of this key: {bucket.limit} {resource} a minute; {left} left, "
                f"{min(amount, bucket.limit)} asked for.",
                fix=f"Try again in {duration(wait_s)}.",
                resource=resource,
                retry_after_s=wait_s,
            )


def telling(send: Send, allowance: Allowance) -> Send:
    """Return a `send` that puts the allowance's headers, as they are then, into the response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *allowance.headers()]}
        await send(message)

    return sending


def duration(seconds: float) -> str:
    """Return a time as OpenAI's headers have it, rounded up.

    >>> duration(0.0), duration(0.0203), duration(1.5), duration(360)
    ('0s', '21ms', '1.5s', '6m0s')
    """
    ms = math.ceil(seconds * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    minutes, rest_ms = divmod(ms, 60_000)
    return f"{minutes}m{rest_ms / 1000:g}s" if minutes else f"{rest_ms / 1000:g}s"
