"""The port `Engine`: what the server needs from whatever generates the tokens.

`serve.vllm_engine` is the real one, `serve.echo_engine` the double that tests use. One suite,
`tests/contract/test_engine.py`, holds for both.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from adapters.types import Version
from serve.asgi import ASGIApp


class Engine(Protocol):
    """One base in memory, LoRA versions beside it, OpenAI's endpoints in front.

    Every method runs on the app's event loop and must not block it. Names are engine names
    (`Version.engine_name`), unique for ever, so an implementation may cache by name.
    """

    @property
    def app(self) -> ASGIApp:
        """OpenAI's HTTP endpoints. `model` in a body is the base's name or a loaded version's
        engine name; any other name is a 404 in OpenAI's error shape.

        Keeps the terms of a request (`serve.asking.TERMS`), where it has any: answers bear its
        name, a prompt that `Terms.check` refuses is not answered, and an answer ends where there
        is no more `Terms.room`."""

    @property
    def max_lora_rank(self) -> int:
        """The largest rank that `load` takes. Fixed when the engine starts."""

    async def load(self, version: Version) -> None:
        """Make a version answer under its engine name; returns once it does.

        Loading it again changes nothing and costs nothing. The version's files must stay as
        they are until `remove` has returned. It may be evicted from fast memory meanwhile; the
        engine then brings it back by itself.

        Raises:
            Unavailable: the engine could not. The name stays unknown; others are unharmed.
        """

    async def remove(self, engine_name: str) -> None:
        """Forget a version and free its memory; an unknown name changes nothing.

        No request under that name may be running or come until this has returned: callers
        drain first.
        """

    def loaded(self) -> Set[str]:
        """Return the engine names that answer."""

    async def check(self) -> None:
        """Return if requests can be served now.

        Raises:
            Unavailable: says what is wrong.
        """
