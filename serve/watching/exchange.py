"""One request and what became of it, noted by each step on its way and read when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from serve.experiments.store.base import Exposure
from serve.http.asgi import Scope
from serve.http.finish import Finish
from serve.http.usage import Tally
from serve.routes.routing import Route

CLIENT_GONE = "client_gone"
_PLACE = "switchyard.exchange"


@dataclass(slots=True)
class Exchange:
    """Empty and None where a request did not get so far."""

    request_id: str = ""
    asked: str = ""
    """The `model` of the client, once it led somewhere."""
    route: Route | None = None
    engine_name: str = ""
    """What the engine was asked for: a version, or the base."""
    key: str | None = None
    """The id of the API key; never the key."""
    admission_s: float | None = None
    """From the body to the engine: waiting for a load, or for a turn."""
    error: str = ""
    """Kind of what went wrong."""
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    """The request's body as the engine gets it."""
    tally: Tally = field(default_factory=Tally)
    finish: Finish = field(default_factory=Finish)
    exposure: Exposure | None = None
    """What an experiment keeps of it, as far as it is known."""
    question: bytes = b""
    """Stands for what its unit asked (`serve.experiments.repeats`)."""


def exchange(scope: Scope) -> Exchange:
    """Return the notes on the request of a scope; made on first use."""
    found: Exchange = scope.setdefault(_PLACE, Exchange())
    return found
