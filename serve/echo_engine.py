"""A small in-process `Engine`: answers with what it was asked, loads by noting a name."""

from __future__ import annotations

import json
from collections.abc import Set

from adapters.errors import Unavailable
from adapters.types import Version
from serve.asgi import ASGIApp, Receive, Scope, Send, send_json


class EchoEngine:
    """Answers any POST with `{model, path, echo: <the body>}`; see the port."""

    def __init__(self, base: str, *, max_lora_rank: int = 64) -> None:
        self._base = base
        self._rank = max_lora_rank
        self._loaded: set[str] = set()
        self.loads: list[str] = []
        """Every load that did something, in order."""
        self.trouble: str | None = None
        """Set it, and the engine is not healthy and loads nothing."""

    @property
    def app(self) -> ASGIApp:
        return self._answer

    @property
    def max_lora_rank(self) -> int:
        return self._rank

    async def load(self, version: Version) -> None:
        await self.check()
        if version.engine_name not in self._loaded:
            self.loads.append(version.engine_name)
            self._loaded.add(version.engine_name)

    async def remove(self, engine_name: str) -> None:
        self._loaded.discard(engine_name)

    def loaded(self) -> Set[str]:
        return frozenset(self._loaded)

    async def check(self) -> None:
        if self.trouble:
            raise Unavailable(self.trouble, fix="Wait, and try again.")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        asked = json.loads(body) if body else {}
        model = asked.get("model")
        if body and model != self._base and model not in self._loaded:
            missing = {"message": f"The model `{model}` does not exist.", "code": 404}
            await send_json(send, 404, {"error": missing})
            return
        await send_json(send, 200, {"model": model, "path": scope["path"], "echo": asked})
