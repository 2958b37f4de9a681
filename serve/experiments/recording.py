"""What an experiment adds to a request: a token on its answer, and an exposure once it is over.

Every request that got its arm by chance is an exposure, whatever becomes of it: were those left out
that failed or that clients left, the arms would no longer be compared by the same units. Nothing
here waits for a database, and nothing that goes wrong here is the request's trouble.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.errors import Unavailable
from serve.experiments.repeats import Repeats, question
from serve.experiments.store.base import Exposure
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.units import key_of, stored
from serve.experiments.token import Assignment, Tokens
from serve.http.asgi import Header
from serve.routes.routing import Route
from serve.tenants.estimate import costs
from serve.watching.exchange import CLIENT_GONE, Exchange
from serve.watching.metrics import Metrics

_EXPIRES_S = 30 * 24 * 3600
_MOST_RECENT = 20_000
_RESPONSES = "/v1/responses"
_LONGEST_ID = 128

log = logging.getLogger(__name__)


class Recording:
    """Between the requests of a server and its store. Lives on the event loop, but for `recent`."""

    def __init__(self, recorder: Recorder, tokens: Tokens, metrics: Metrics) -> None:
        self._recorder = recorder
        self._tokens = tokens
        self._metrics = metrics
        self._repeats = Repeats()
        self._recent: dict[str, Assignment] = {}
        self._trouble = ""

    def begin(
        self, noted: Exchange, route: Route, model: str, path: str, content: Mapping[str, Any]
    ) -> None:
        """Note who is exposed to what, where an experiment decided on the route of `model`.

        Also where the arm turns out not to be served: that is what its units then meet. Paths that
        compute nothing (`/tokenize`) do not count, nor does who was listed by hand.
        """
        if not (route.phase and route.arm and route.unit) or route.probability is None:
            return
        if not costs(path):
            return
        phase, unit = route.phase, route.unit
        noted.exposure = Exposure(
            key_of(model, phase.experiment),  # only a name alone leads to an experiment
            phase.number,
            route.arm.name,
            stored(unit.name, phase.salt),
            route.probability,
            noted.request_id,
            time.time(),
            source=unit.source,
        )
        noted.question = question(noted.exposure, content)
        if self._repeats.again(noted.question):
            noted.exposure = replace(noted.exposure, regenerate=True)

    def tell(
        self, noted: Exchange, path: str, content: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Header]]:
        """Return the body for the engine, and what the answer's headers say of the assignment.

        vLLM makes an answer's id of the request's id, but for a response of `/v1/responses`, which
        has one of its own: from here on that stands for the request.
        """
        if not noted.exposure:
            return content, []
        if path == _RESPONSES:
            content = {"request_id": f"resp_{uuid.uuid4().hex}", **content}
            response = content["request_id"]
            if isinstance(response, str) and len(response) <= _LONGEST_ID:
                noted.exposure = replace(noted.exposure, request_id=response)
        made = noted.exposure
        assignment = Assignment(
            made.experiment,
            made.phase,
            made.arm,
            made.unit,
            made.request_id,
            int(made.at_s) + _EXPIRES_S,
        )
        self._recent[made.request_id] = assignment
        if len(self._recent) > _MOST_RECENT:
            del self._recent[next(iter(self._recent))]
        headers = [(b"x-adapter-unit", made.source.encode())]
        try:
            headers.append((b"x-assignment", self._tokens.sign(assignment).encode()))
        except Unavailable as error:
            self._metrics.unsigned.inc()
            if str(error) != self._trouble:  # once, not with every answer
                log.error("Answers go without a token for feedback: %s", error)
            self._trouble = str(error)
        return content, headers

    def recent(self, request_id: str) -> Assignment | None:
        """Return what one of the last requests was assigned, running ones too. Thread-safe."""
        return self._recent.get(request_id)

    def over(self, noted: Exchange, status: int, took_s: float, first_s: float | None) -> None:
        """Hand an exposure over, its request being over.

        An error is what was not the client's doing: a status of 500 or more, a stream that broke
        off. Neither a request that was refused (4xx) is one, nor a client that left.
        """
        if not noted.exposure:
            return
        refused = 400 <= status < 499
        gone = noted.error == CLIENT_GONE
        failed = not refused and not gone and bool(noted.error or noted.finish.broken)
        answered = status < 400 and not failed
        exposure = replace(
            noted.exposure,
            error=failed,
            refusal=noted.finish.refused,
            latency_ms=None if refused or failed else took_s * 1e3,
            ttft_ms=None if first_s is None else first_s * 1e3,
            prompt_tokens=(noted.tally.prompt_tokens or None) if answered else None,
            output_tokens=noted.tally.completion_tokens if answered else None,
            finish_reason=noted.finish.reason,
        )
        if answered:
            self._repeats.answered(noted.question)
        self._recorder.record(exposure)
