"""Who is assigned: a user, else a session, else one request alone."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adapters.experiments import Phase
from serve.http.asgi import Scope, header

Source = Literal["header", "user", "session", "request"]
_SESSION = b"x-session-id"


@dataclass(frozen=True, slots=True)
class Unit:
    """Who, and how that is known."""

    name: str
    source: Source
    """request: nobody was named, so this request is a unit of its own, and no other joins it."""


Who = Callable[[Phase], Unit]
"""Says whom a request is of, to the experiment that asks."""


def who(content: Mapping[str, Any], scope: Scope) -> Who:
    """Return whom a request is of.

    The header that an experiment names is asked first, and alone. Else OpenAI's `user` or
    `safety_identifier`, Anthropic's `metadata.user_id`, the header `x-session-id`, in this order.
    """

    def unit(phase: Phase) -> Unit:
        if name := phase.design.unit_header:
            if given := header(scope, name.encode()):
                return Unit(given, "header")
            return Unit(secrets.token_hex(16), "request")
        metadata = content.get("metadata")
        of_anthropic = metadata.get("user_id") if isinstance(metadata, dict) else None
        for given in (content.get("user"), content.get("safety_identifier"), of_anthropic):
            if isinstance(given, str) and given:
                return Unit(given, "user")
        if given := header(scope, _SESSION):
            return Unit(given, "session")
        return Unit(secrets.token_hex(16), "request")

    return unit
