"""OpenAI streaming users. Time to first token and time between tokens are Locust events.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 Steady
    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 HotSwap

`Steady` keeps to one adapter; `HotSwap` draws one per request, by Zipf, out of all that the
server lists. `make loadtest` runs both against a server of its own.
"""

from __future__ import annotations

import os
import random
import time

from locust import User, constant, task
from openai import OpenAI, OpenAIError

MAX_TOKENS = 32
ZIPF_EXPONENT = 1.1
_QUESTIONS = (
    "What is the capital of France?",
    "The kettle does not turn on, please help.",
    "Name three birds.",
    "I was charged twice for my gym membership.",
    "Repeat: lamp, tent, kite",
)


class Chat(User):  # type: ignore[misc]
    """Asks, streams the answer, asks again. Subclasses choose the `model` of each request."""

    abstract = True
    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect with the genuine client and read which adapters there are."""
        key = os.environ.get("OPENAI_API_KEY", "none")
        self.client = OpenAI(base_url=f"{self.host}/v1", api_key=key, max_retries=0)
        listed = [model.id for model in self.client.models.list()]
        self.adapters = sorted(m for m in listed if m.startswith("fleet-") and "@" not in m)
        self.adapters = self.adapters or sorted(m for m in listed if "@" not in m)

    def on_stop(self) -> None:
        """Close the connections."""
        self.client.close()

    def choose(self) -> str:
        """Return the `model` of the next request."""
        raise NotImplementedError

    @task
    def ask(self) -> None:
        """Stream one answer; fires `ttft`, `itl` per token, and `answer` with its token count."""
        scenario = type(self).__name__.lower()
        began = previous = time.perf_counter()
        tokens, failed = 0, None
        try:
            stream = self.client.chat.completions.create(
                model=self.choose(),
                messages=[{"role": "user", "content": random.choice(_QUESTIONS)}],
                max_tokens=MAX_TOKENS,
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},  # equal work for every adapter
            )
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    now = time.perf_counter()
                    self._fire("itl" if tokens else "ttft", scenario, (now - previous) * 1000)
                    tokens, previous = tokens + 1, now
        except OpenAIError as error:
            failed = error
        if not tokens and failed is None:
            failed = OpenAIError("the stream held no token")
        self._fire("answer", scenario, (time.perf_counter() - began) * 1000, tokens, failed)

    def _fire(
        self, kind: str, name: str, ms: float, tokens: int = 0, failed: Exception | None = None
    ) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=ms,
            response_length=tokens,
            exception=failed,
            context={},
        )


class Steady(Chat):
    """One adapter, as a single-tenant server would see."""

    def choose(self) -> str:
        """Return the first adapter."""
        return self.adapters[0]


class HotSwap(Chat):
    """Every adapter, few of them often: request k goes to rank n with weight 1/n^s."""

    def choose(self) -> str:
        """Draw an adapter by Zipf."""
        weights = [1 / rank**ZIPF_EXPONENT for rank in range(1, len(self.adapters) + 1)]
        return random.choices(self.adapters, weights)[0]
