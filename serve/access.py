"""Which paths exist for a client, and which of them need a key. Everything else is denied.

vLLM's app has more routes than are meant for clients (loading any folder as an adapter, scaling,
profiling …), some outside its own key check. So this is a list of what is allowed, and a route
that a later vLLM adds stays shut until it is added here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from enum import Enum, auto

from serve.asgi import Scope, header
from serve.failures import RequestRefused


class Kind(Enum):
    """What the middleware does with a path."""

    OPEN = auto()
    """Passed on, no key needed."""
    READY = auto()
    """Our readiness, no key needed."""
    MODELS = auto()
    """Our list of models, or one of them."""
    PLAIN = auto()
    """Passed on as it is."""
    ROUTED = auto()
    """A JSON document whose `model` we route."""
    DENIED = auto()
    """Nothing there for a client, whatever else the app behind may have there."""


MODELS_PATH = "/v1/models"
_KINDS = {
    "/health": Kind.OPEN,
    "/metrics": Kind.OPEN,
    "/ready": Kind.READY,
    "/version": Kind.PLAIN,
    MODELS_PATH: Kind.MODELS,
    "/v1/chat/completions": Kind.ROUTED,
    "/v1/chat/completions/batch": Kind.ROUTED,
    "/v1/completions": Kind.ROUTED,
    "/v1/responses": Kind.ROUTED,
    "/v1/messages": Kind.ROUTED,
    "/v1/messages/count_tokens": Kind.ROUTED,
    "/v1/embeddings": Kind.ROUTED,
    "/v1/score": Kind.ROUTED,
    "/v1/rerank": Kind.ROUTED,
    "/tokenize": Kind.ROUTED,
    "/detokenize": Kind.ROUTED,
}
_STORED_RESPONSE = re.compile(r"/v1/responses/resp_[A-Za-z0-9_-]{1,128}(/cancel)?")
_KEYLESS = frozenset({Kind.OPEN, Kind.READY})


def classify(path: str) -> Kind:
    """Return what to do with a path."""
    if path.startswith(f"{MODELS_PATH}/"):
        return Kind.MODELS
    if _STORED_RESPONSE.fullmatch(path):
        return Kind.PLAIN
    return _KINDS.get(path, Kind.DENIED)


class Keys:
    """The API keys that open the server; without any, everybody may come in.

    Only hashes are kept, and every comparison looks at all of them in constant time.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        assert all(keys), "an empty key would let everybody in"
        self._hashes = [_hash(key) for key in keys]

    def check(self, kind: Kind, scope: Scope) -> None:
        """Let a request pass that needs no key or brings one.

        As `Authorization: Bearer …` (OpenAI) or `x-api-key: …` (Anthropic).

        Raises:
            RequestRefused: 401.
        """
        if not self._hashes or kind in _KEYLESS or scope["method"] == "OPTIONS":
            return  # a browser's preflight never carries a key; it only asks
        scheme, _, bearer = (header(scope, b"authorization") or "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else header(scope, b"x-api-key")
        matches = [hmac.compare_digest(_hash(given or ""), known) for known in self._hashes]
        if not any(matches):
            raise RequestRefused(
                401,
                "No valid API key." if given else "This server needs an API key.",
                fix="Send Authorization: Bearer KEY.",
            )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
