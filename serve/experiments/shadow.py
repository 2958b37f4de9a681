"""Shadow traffic: a version answers copies of requests, and nobody gets its answers.

A copy is sent once the real answer is out, takes no slot that another adapter waits for, and gives
way to any request that waits for 0.1 s: it is skipped then, and counted. So what a shadow costs the
others is the engine's time while nobody queues for it, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from adapters.errors import AdaptersError
from adapters.experiments import Phase
from adapters.types import Ref
from serve.engines.asking import ask
from serve.engines.engine import Engine
from serve.experiments.store.base import Shadow, Store
from serve.experiments.store.units import key_of, stored
from serve.http.answers import ANSWERING, text_of
from serve.http.asgi import ASGIApp, Message, Scope, Send, path_of
from serve.http.body import replaced
from serve.http.failures import RequestRefused
from serve.http.usage import Tally
from serve.loading.admission import Admission
from serve.routes.chosen import Chosen
from serve.routes.routing import Base, Route, grounded, route
from serve.routes.snapshot import Snapshot
from serve.tenants.caller import Caller
from serve.watching.exchange import exchange
from serve.watching.experiment_metrics import Shadowed

_MOST = 2
"""Copies in flight."""
_GLANCE_S, _GLANCES = 0.02, 5
"""A copy gives way to who waits at so many glances in a row: the engine's queue is told as of its
last step, and what comes during a step, the copy itself for one, is in it for a moment."""
_LEAVE_S = 1.0
_PATIENCE_S = 120.0
"""How long an answer may take; one that takes longer is given up."""
_MOST_BYTES = 4 << 20
_LONGEST_TEXT = 64 << 10
"""Characters of a prompt or an answer that is kept."""
_LAST = b"1000000"
"""In vLLM less is sooner, and 0 what requests have. Without `--scheduling-policy priority` it does
not look at it."""
_STREAMING = ("stream", "stream_options")
_PROMPT = ("system", "instructions", "messages", "prompt", "input", "tools")

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Is told what became of copies. `serve.watching.experiment_metrics` is one."""

    def shadowed(self, adapter: str, result: Shadowed) -> None:
        """A copy is over, or was not sent."""


@dataclass(slots=True)
class _Heard:
    """An answer as it passes: whether it ended well, and all of it where it is kept."""

    keeps: bool
    status: int = 0
    ended: bool = False
    body: bytearray = field(default_factory=bytearray)

    def hear(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            if self.keeps and len(self.body) <= _MOST_BYTES:
                self.body += message.get("body", b"")

    async def send(self, message: Message) -> None:
        self.hear(message)

    def text(self, path: str) -> str | None:
        return None if len(self.body) > _MOST_BYTES else text_of(path, bytes(self.body))


@dataclass(frozen=True, slots=True)
class _Copy:
    """What was asked, whose it is, and what the client was answered."""

    app: ASGIApp
    adapter: str
    phase: Phase
    found: Route
    caller: Caller
    scope: Scope
    content: Mapping[str, Any]
    answer: _Heard

    @property
    def path(self) -> str:
        return path_of(self.scope)


class Shadows:
    """Sends copies. Lives on the event loop; the store is asked on threads."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        snapshot: Callable[[], Snapshot],
        base: Base,
        store: Store,
        watcher: Watcher,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._snapshot = snapshot
        self._base = base
        self._store = store
        self._watcher = watcher
        self._chosen = Chosen()
        self._running: set[asyncio.Task[None]] = set()
        self._trouble = ""

    @contextmanager
    def beside(
        self,
        app: ASGIApp,
        found: Route,
        caller: Caller,
        scope: Scope,
        content: Mapping[str, Any],
        send: Send,
    ) -> Iterator[Send]:
        """Yield the `send` to answer a request through, and copy the request once it is answered.

        `content`: as the client said it, before any version's defaults. Enter it first, so that
        whatever the request holds is free by then. Without a shadow it is `send` itself.
        """
        copy = self._copy(app, found, caller, scope, content)
        if copy is None:
            yield send
            return

        async def sending(message: Message) -> None:
            await send(message)
            copy.answer.hear(message)

        yield sending
        if copy.answer.ended and copy.answer.status == 200:
            self._begin(copy)

    async def close(self) -> None:
        """Drop what is in flight."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _copy(
        self,
        app: ASGIApp,
        found: Route,
        caller: Caller,
        scope: Scope,
        content: Mapping[str, Any],
    ) -> _Copy | None:
        phase = found.phase
        if phase is None or phase.design.shadow is None or path_of(scope) not in ANSWERING:
            return None
        if content.get("background"):
            return None  # it is answered with a promise
        noted = exchange(scope)
        if not _is_chosen(phase, noted.request_id):
            return None
        keeps = _Heard(phase.design.keep_answers)
        return _Copy(app, Ref.parse(noted.asked).name, phase, found, caller, scope, content, keeps)

    def _begin(self, copy: _Copy) -> None:
        if len(self._running) >= _MOST:
            self._watcher.shadowed(copy.adapter, "skipped")
            return
        task = asyncio.create_task(self._run(copy))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, copy: _Copy) -> None:
        result: Shadowed = "failed"
        try:
            if (shadow := await self._told(copy)) is None:
                result = "skipped"
                return
            await asyncio.to_thread(self._store.shadow, [shadow])
            result = "failed" if shadow.error else "answered"
            self._trouble = ""
        except AdaptersError as error:  # it cannot be loaded, say, or the store is gone
            if str(error) != self._trouble:  # once, not at every request
                log.error("Nothing is kept of a shadow of %s: %s", copy.adapter, error)
            self._trouble = str(error)
        except Exception:
            log.exception("A shadow of %s failed", copy.adapter)
        finally:
            self._watcher.shadowed(copy.adapter, result)

    async def _told(self, copy: _Copy) -> Shadow | None:
        """Have a copy answered. None: it had to give way, or took too long.

        Raises:
            AdaptersError: the shadow is not served, or cannot be loaded.
        """
        shadow = self._route(copy)
        name = shadow.weights.engine_name if shadow.weights else ""
        if self._is_in_the_way(name) or not self._has_room(name):
            return None
        heard, at_s, gone = _Heard(keeps=True), time.time(), asyncio.Event()
        answering = asyncio.create_task(self._answer(copy, shadow, heard, gone))
        until, waited = time.monotonic() + _PATIENCE_S, 0
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=_GLANCE_S)
                waited = waited + 1 if self._is_in_the_way(name) else 0
                late = waited >= _GLANCES or time.monotonic() > until
                if late and not answering.done():
                    gone.set()  # vLLM ends what it does for a client that leaves
                    await asyncio.wait({answering}, timeout=_LEAVE_S)
                    return None
        finally:
            answering.cancel()
            await asyncio.wait({answering})
        return await asyncio.to_thread(_record, copy, at_s, heard, answering.result())

    async def _answer(
        self, copy: _Copy, shadow: Route, heard: _Heard, gone: asyncio.Event
    ) -> float:
        """Have the engine answer into `heard`; returns what that took, in ms."""
        version, weights, path = shadow.version, shadow.weights, copy.path
        assert version
        content = {key: each for key, each in copy.content.items() if key not in _STREAMING}
        content["model"] = weights.engine_name if weights else self._base.names[0]
        if path == "/v1/responses":
            content["store"] = False
        content, terms = await self._chosen.filled(version, version.engine_name, path, content)
        content = copy.caller.sealed(path, content)

        async def receiving() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async with self._admission.using(weights) if weights else nullcontext():
            began = time.monotonic()
            scope, receive = replaced(_bare(copy.scope), receiving, content)
            with suppress(RequestRefused):  # too long for it, say
                await ask(copy.app, terms, scope, receive, heard.send)
            return (time.monotonic() - began) * 1e3

    def _route(self, copy: _Copy) -> Route:
        """Return where the copy goes.

        Raises:
            AdaptersError: the shadow is not served.
        """
        snapshot = self._snapshot()
        model = f"{copy.adapter}@v{copy.phase.design.shadow}"
        return grounded(snapshot, route(snapshot, self._base, model, None))

    def _is_in_the_way(self, name: str) -> bool:
        """Say whether somebody else waits, for a slot or in the engine's queue."""
        return self._engine.waiting > 0 or any(each != name for each in self._admission.waiting)

    def _has_room(self, name: str) -> bool:
        """Say whether a slot is free for it, or it sits in one."""
        rotation = self._admission.residency.rotation
        running = rotation.running if rotation else {}
        return not name or name in running or len(running) < self._engine.slots


def _is_chosen(phase: Phase, request_id: str) -> bool:
    digest = hashlib.sha256(f"shadow:{phase.salt}:{request_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < phase.design.shadow_share * 2**64


def _record(copy: _Copy, at_s: float, heard: _Heard, latency_ms: float) -> Shadow:
    """Return what is kept of a copy."""
    phase, unit, arm = copy.phase, copy.found.unit, copy.found.arm
    assert unit is not None
    assert arm is not None
    assert phase.design.shadow is not None
    error = not (heard.ended and heard.status == 200)
    tally = Tally()
    tally.read(bytes(heard.body))
    keeps = phase.design.keep_answers and not error
    prompt, answer, other = _texts(copy, heard) if keeps else (None, None, None)
    return Shadow(
        experiment=key_of(copy.adapter, phase.experiment),
        phase=phase.number,
        arm=arm.name,
        unit=stored(unit.name, phase.salt),
        request_id=exchange(copy.scope).request_id,
        version=phase.design.shadow,
        at_s=at_s,
        error=error,
        latency_ms=None if error else latency_ms,
        output_tokens=tally.completion_tokens or None,
        prompt=prompt,
        answer=answer,
        shadow_answer=other,
    )


def _texts(copy: _Copy, heard: _Heard) -> tuple[str | None, str | None, str | None]:
    """Return prompt, answer and shadow's answer; nothing where one is missing or too long."""
    asked = {key: copy.content[key] for key in _PROMPT if copy.content.get(key) is not None}
    prompt = json.dumps({"path": copy.path, **asked}, ensure_ascii=False)
    answer, other = copy.answer.text(copy.path), heard.text(copy.path)
    if answer is None or other is None or max(map(len, (prompt, answer, other))) > _LONGEST_TEXT:
        return None, None, None
    return prompt, answer, other


def _bare(scope: Scope) -> Scope:
    """Return the scope of a copy: the client's way to the app, and none of its headers."""
    request_id = f"shadow-{exchange(scope).request_id}"[:128].encode("latin-1", "replace")
    headers = [
        (b"host", b"shadow"),
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id),
        (b"x-vllm-priority", _LAST),
    ]
    kept = {key: each for key, each in scope.items() if not key.startswith("switchyard.")}
    return {**kept, "headers": headers}
