"""The port `Engine`: what the server needs from whatever generates the tokens.

`serve.engines.vllm_engine` is the real one, `serve.engines.echo_engine` the double that tests use.
One suite, `tests/contract/test_engine.py`, holds for both.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Protocol

from adapters.canary import Answers
from adapters.types import Version
from serve.http.asgi import ASGIApp


@dataclass(frozen=True, slots=True)
class Memory:
    """Which versions an engine held when it was asked, by engine name."""

    loaded: tuple[str, ...] = ()
    """In its memory, least recently used first: ready for a slot without a disk."""
    resident: frozenset[str] = frozenset()
    """Of those, the ones in a slot."""


class Engine(Protocol):
    """One base in memory, LoRA versions beside it, OpenAI's endpoints in front.

    Every method but `document` runs on the app's event loop and must not block it. Names are
    engine names (`Version.engine_name`), unique for ever, so an implementation may cache by name.
    """

    @property
    def app(self) -> ASGIApp:
        """OpenAI's HTTP endpoints. `model` in a body is the base's name or a loaded version's
        engine name; any other name is a 404 in OpenAI's error shape.

        Keeps the terms of a request (`serve.engines.asking.TERMS`), where it has any: answers bear
        its name, a prompt that `Terms.check` refuses is not answered, and an answer ends where
        there is no more `Terms.room`."""

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document of `app`: what paths it has on this base, and their bodies.

        May take a second: for the start alone.
        """

    @property
    def max_lora_rank(self) -> int:
        """The largest rank that `load` takes. Fixed when the engine starts."""

    @property
    def memory_places(self) -> int:
        """How many versions fit in memory, beside each other; at least `slots`."""

    @property
    def slots(self) -> int:
        """How many different versions one step can use."""

    async def load(self, version: Version) -> float:
        """Make a version answer under its engine name; returns once it is in memory.

        Where it is in memory this changes nothing and costs nothing. The version's files must
        stay as they are until `remove` has returned: it may be evicted from memory meanwhile,
        and the engine then brings it back, here without a stall or by itself with one.

        Returns for how many seconds the engine could do nothing else: the stall.

        Raises:
            Unavailable: the engine could not. The name stays unknown; others are unharmed.
        """

    async def memory(self) -> Memory:
        """Ask what is in memory and in slots now.

        Raises:
            Unavailable: the engine did not answer.
        """

    async def pin(self, engine_name: str, pinned: bool) -> None:
        """Keep a loaded version in memory whatever else is loaded, or no more.

        Callers leave as many places unpinned as there are slots: one step may need them all.

        Raises:
            Unavailable: it is not in memory, or the engine did not answer.
        """

    @property
    def exactness(self) -> float | None:
        """By how much a logprob may differ from what transformers computes in float32.

        None: nobody can say (a quantised base, say)."""

    async def canary(self, engine_name: str | None) -> Answers:
        """Answer the canary prompts (`adapters.canary`) by a loaded version.

        None: by the base. Nothing where the base generates no text (embeddings, say).

        Raises:
            Unavailable: the engine did not answer.
        """

    async def remove(self, engine_name: str) -> None:
        """Forget a version and free its memory; an unknown name changes nothing.

        No request under that name may be running or come until this has returned: callers
        drain first.
        """

    def loaded(self) -> Set[str]:
        """Return the engine names that answer."""

    @property
    def waiting(self) -> int:
        """How many requests stood in the engine's queue after its last step: they are there, and
        there was no room to begin them. 0 where it does not say."""

    async def check(self) -> None:
        """Return if requests can be served now.

        Raises:
            Unavailable: says what is wrong.
        """
