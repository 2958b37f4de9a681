"""An engine that dies under requests: each gets a 503 that says so, where vLLM would say 500."""

from __future__ import annotations

from adapters.errors import Unavailable
from serve.engines.engine import Engine
from serve.http.asgi import Message, Send
from serve.http.failures import STREAM_ERRORS, event


class LastWords:
    """A `send` that holds back what an app says of the engine's death; see `check`."""

    def __init__(self, send: Send, engine: Engine, path: str) -> None:
        self._send = send
        self._engine = engine
        self._path = path
        self._death: Unavailable | None = None

    async def send(self, message: Message) -> None:
        """Pass a message on, but for an error that comes from a dead engine."""
        if message["type"] == "http.response.start" and message["status"] >= 500:
            self._death = await self._dead()
        elif message.get("body", b"").startswith(STREAM_ERRORS) and (death := await self._dead()):
            message = {**message, "body": event(death, self._path)}
        if not self._death:
            await self._send(message)

    def check(self) -> None:
        """Once the app is through, say what it may not have said.

        Raises:
            Unavailable: the engine is dead, and nothing was answered yet.
        """
        if self._death:
            raise self._death

    async def _dead(self) -> Unavailable | None:
        try:
            await self._engine.check()
        except Unavailable as error:
            return error
        return None
