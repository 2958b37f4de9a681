"""The one middleware, outermost: everything between a client's bytes and the engine's app.

Request id → path → key → rate → body → route → serving defaults → admission → the app behind, with
`model` rewritten to the engine name; the answer streams through untouched but for our headers.
Pure ASGI.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from adapters.errors import AdaptersError
from serve.engines.asking import ask
from serve.engines.engine import Engine
from serve.engines.last_words import LastWords
from serve.experiments.control import Control
from serve.experiments.feedback import SIZE_BYTES, Feedback
from serve.experiments.recording import Recording
from serve.experiments.shadow import Shadows
from serve.http.access import MODELS_PATH, Kind, classify, stored_response
from serve.http.asgi import (
    ASGIApp,
    Header,
    Receive,
    Scope,
    Send,
    header,
    path_of,
    send_json,
    with_headers,
)
from serve.http.body import ClientGone, Limits, parse, read, replaced, spoken, while_connected
from serve.http.draining import Drain
from serve.http.failures import RequestRefused, document, headers_of, kind_of, status_of
from serve.http.finish import watched
from serve.http.grammars import check_grammars
from serve.http.openapi import described
from serve.http.usage import counted
from serve.loading.admission import Admission
from serve.loading.inventory import Inventory
from serve.routes.catalogue import card, listing
from serve.routes.chosen import Chosen
from serve.routes.routing import Base, Route, check_stands, grounded, lead
from serve.routes.snapshot import Snapshot
from serve.routes.units import who
from serve.tenants.caller import Caller
from serve.tenants.estimate import costs
from serve.tenants.keys import Keys
from serve.tenants.metering import metered
from serve.tenants.rates import telling
from serve.watching.exchange import CLIENT_GONE, exchange
from serve.watching.readiness import Readiness

_REQUEST_ID = b"x-request-id"
_ASSIGNMENT = b"x-assignment"

log = logging.getLogger(__name__)


class Gate:
    """Stands before an engine's app. One instance serves all requests."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        engine: Engine,
        admission: Admission,
        snapshot: Callable[[], Snapshot],
        base: Base,
        keys: Keys,
        limits: Limits | None = None,
        readiness: Readiness | None = None,
        control: Control | None = None,
        feedback: Feedback | None = None,
        recording: Recording | None = None,
        shadows: Shadows | None = None,
    ) -> None:
        self._app = app
        self._shadows = shadows
        self._engine = engine
        self._admission = admission
        self._snapshot = snapshot
        self._base = base
        self._inventory = Inventory(admission, base)
        self._keys = keys
        self._limits = limits or Limits()
        self._control = control
        self._feedback = feedback
        self._recording = recording
        self._chosen = Chosen()
        self._document = described(engine.document())
        self._readiness = readiness or Readiness(engine, Drain())
        self._drain = self._readiness.drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope, request_id = _identified(scope)
        exchange(scope).request_id = request_id.decode()
        send = with_headers(send, [(_REQUEST_ID, request_id)])
        path = path_of(scope)
        try:
            kind = classify(path)
            caller = self._keys.caller(kind, scope)
            exchange(scope).key = caller.id
            if caller.allowance:
                send = telling(send, caller.allowance)
                caller.allowance.take_request()
            await self._dispatch(kind, caller, scope, receive, send)
        except AdaptersError as error:
            exchange(scope).error = kind_of(error)
            await send_json(send, status_of(error), document(error, path), headers_of(error))
        except ClientGone:
            exchange(scope).error = CLIENT_GONE

    async def _dispatch(
        self, kind: Kind, caller: Caller, scope: Scope, receive: Receive, send: Send
    ) -> None:
        path = path_of(scope)
        if kind is Kind.DENIED:
            raise RequestRefused(404, f"Nothing is at {path[:80]!r}.", fix="See GET /v1/models.")
        if kind is Kind.READY:
            ready, report = await self._readiness.report()
            await send_json(send, 200 if ready else 503, report)
        elif kind is Kind.MODELS and scope["method"] in ("GET", "HEAD"):
            await send_json(send, 200, self._models(caller, path))
        elif kind is Kind.DOCUMENT and scope["method"] in ("GET", "HEAD"):
            await send_json(send, 200, self._document)
        elif kind is Kind.ADAPTERS:
            found = await self._inventory.answer(self._snapshot(), scope["method"], path)
            await send_json(send, 200, found)
        elif kind is Kind.FEEDBACK and self._feedback:
            with self._drain.running():
                await self._post_back(self._feedback, caller, scope, receive, send)
        elif kind is Kind.EXPERIMENTS and self._control:
            await self._operate(self._control, caller, scope, receive, send)
        elif kind is Kind.ROUTED and scope["method"] == "POST":
            with self._drain.running():
                await self._route(caller, scope, receive, send)
        else:
            if kind is Kind.STORED:
                caller.check_response(stored_response(path))
            await self._app(scope, receive, send)

    async def _post_back(
        self, feedback: Feedback, caller: Caller, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["method"] != "POST":
            raise RequestRefused(405, "Outcomes are posted.", fix="Send POST /v1/feedback.")
        size_bytes = min(SIZE_BYTES, self._limits.size_bytes)
        content = parse(await read(receive, replace(self._limits, size_bytes=size_bytes)))
        token = header(scope, _ASSIGNMENT)
        await send_json(send, 200, await feedback.answer(caller, content, token))

    async def _operate(
        self, control: Control, caller: Caller, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Change or show an experiment; what is written to the registry bears the key's name."""
        method, content = scope["method"], {}
        if method == "POST" and (body := await read(receive, self._limits)):
            content = parse(body)
        by = f"key {caller.key.name}" if caller.key else "http"
        await send_json(send, 200, await control.answer(method, path_of(scope), content, by))

    def _models(self, caller: Caller, path: str) -> dict[str, Any]:
        model = path.removeprefix(MODELS_PATH).removeprefix("/")
        snapshot, base = caller.view(self._snapshot(), self._base)
        return card(snapshot, base, model) if model else listing(snapshot, base)

    async def _route(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        if path not in self._document["paths"]:
            raise RequestRefused(
                404, f"{path} is not served: this base has no use for it.", fix="See /openapi.json."
            )
        content = spoken(path, parse(await read(receive, self._limits)))
        model = _model(content)
        check_grammars(content)
        snapshot = self._snapshot()
        view = caller.view(snapshot, self._base)
        noted, found = exchange(scope), lead(*view, model, who(content, scope))
        if self._recording:
            self._recording.begin(noted, found, model, path, content)
        check_stands(*view, found)
        found = grounded(snapshot, found)
        name = found.version.engine_name if found.version else self._base.names[0]
        noted.asked, noted.route, noted.engine_name = model, found, name
        content["model"] = found.weights.engine_name if found.weights else self._base.names[0]
        asked = content
        content, terms = await self._chosen.filled(found.version, name, path, content)
        content = caller.sealed(path, content)
        headers = _headers(found, name)
        if self._recording:
            content, told = self._recording.tell(noted, path, content)
            headers += told
        began = time.monotonic()
        async with AsyncExitStack() as admitted:
            if self._shadows:
                copying = self._shadows.beside(self._app, found, caller, scope, asked, send)
                send = admitted.enter_context(copying)
            metering = metered(caller.allowance, path, content, send, noted.tally)
            send = admitted.enter_context(metering)
            admitted.enter_context(caller.discreetly(found))
            if found.weights:
                using = self._admission.using(found.weights, computes=costs(path))
                async with while_connected(receive):
                    await admitted.enter_async_context(using)
                noted.admission_s = time.monotonic() - began
            content, send = counted(path, content, send, noted.tally)
            if noted.exposure:
                send = watched(path, send, noted.finish)
            noted.content = content
            scope, receive = replaced(scope, receive, content)
            words = LastWords(with_headers(send, headers), self._engine, path)
            await ask(self._app, terms, scope, receive, words.send)
            words.check()


def _identified(scope: Scope) -> tuple[Scope, bytes]:
    """Return the request's id, the client's own where it sent a decent one, and a scope with it."""
    given = header(scope, _REQUEST_ID)
    if given and len(given) <= 128 and given.isascii() and given.isprintable():
        return scope, given.encode()
    made = uuid.uuid4().hex.encode()
    headers = [pair for pair in scope["headers"] if pair[0] != _REQUEST_ID]
    return {**scope, "headers": [*headers, (_REQUEST_ID, made)]}, made


def _model(content: Mapping[str, Any]) -> str:
    model = content.get("model")
    if not isinstance(model, str) or not model:
        said = "is missing" if "model" not in content else f"is {model!r:.40}, not a name"
        raise RequestRefused(400, f"`model` {said}.", fix="See GET /v1/models.", param="model")
    return model


def _headers(found: Route, name: str) -> list[Header]:
    headers = [(b"x-adapter", name.encode("latin-1", "replace"))]
    if found.phase and found.arm:
        headers.append((b"x-adapter-experiment", found.phase.experiment.encode()))
        headers.append((b"x-adapter-arm", found.arm.name.encode("latin-1", "replace")))
    return headers
