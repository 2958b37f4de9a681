"""Which paths exist for a client, and which of them need a key. Everything else is denied.

vLLM's app has more routes than are meant for clients (loading any folder as an adapter, scaling,
profiling …), some outside its own key check. So this is a list of what is allowed, and a route
that a later vLLM adds stays shut until it is added here.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from adapters.keys import Role


class Kind(Enum):
    """What the middleware does with a path."""

    OPEN = auto()
    """Passed on, no key needed."""
    READY = auto()
    """Our readiness, no key needed."""
    METRICS = auto()
    """Passed on to an admin; to everybody where so chosen. It names adapters."""
    MODELS = auto()
    """Our list of models, or one of them."""
    ADAPTERS = auto()
    """Our inventory: where versions stand on this server, for its operators."""
    FEEDBACK = auto()
    """Results of experiments, posted back by clients."""
    EXPERIMENTS = auto()
    """Experiments on live traffic, for its operators."""
    DOCUMENT = auto()
    """What there is for clients, as OpenAPI."""
    PLAIN = auto()
    """Passed on as it is."""
    STORED = auto()
    """A response that vLLM keeps; passed on to whom it was given."""
    ROUTED = auto()
    """A JSON document whose `model` we route."""
    DENIED = auto()
    """Nothing there for a client, whatever else the app behind may have there."""


MODELS_PATH = "/v1/models"
ADAPTERS_PATH = "/v1/adapters"
EXPERIMENTS_PATH = "/v1/experiments"
FEEDBACK_PATH = "/v1/feedback"
_KINDS = {
    "/health": Kind.OPEN,
    "/metrics": Kind.METRICS,
    "/ready": Kind.READY,
    "/version": Kind.PLAIN,
    "/openapi.json": Kind.DOCUMENT,
    MODELS_PATH: Kind.MODELS,
    FEEDBACK_PATH: Kind.FEEDBACK,
    "/v1/chat/completions": Kind.ROUTED,
    "/v1/chat/completions/batch": Kind.ROUTED,
    "/v1/completions": Kind.ROUTED,
    "/v1/responses": Kind.ROUTED,
    "/v1/messages": Kind.ROUTED,
    "/v1/messages/count_tokens": Kind.ROUTED,
    "/v1/embeddings": Kind.ROUTED,
    "/pooling": Kind.ROUTED,
    "/classify": Kind.ROUTED,
    "/score": Kind.ROUTED,
    "/v1/score": Kind.ROUTED,
    "/rerank": Kind.ROUTED,
    "/v1/rerank": Kind.ROUTED,
    "/v2/rerank": Kind.ROUTED,
    "/tokenize": Kind.ROUTED,
    "/detokenize": Kind.ROUTED,
}
_STORED_RESPONSE = re.compile(r"/v1/responses/(resp_[A-Za-z0-9_-]{1,128})(/cancel)?")
_KEYLESS = frozenset({Kind.OPEN, Kind.READY})
_FOR_ROLE: dict[Role, frozenset[Kind]] = {
    "infer": frozenset(
        {
            *(Kind.MODELS, Kind.DOCUMENT, Kind.PLAIN, Kind.STORED, Kind.ROUTED),
            *(Kind.FEEDBACK, Kind.DENIED),
        }
    ),
    "feedback": frozenset({Kind.FEEDBACK, Kind.DENIED}),
    "admin": frozenset(Kind),
}
"""What a role opens; what is denied is denied alike to all of them."""


def classify(path: str) -> Kind:
    """Return what to do with a path."""
    if path.startswith(f"{MODELS_PATH}/"):
        return Kind.MODELS
    if path == ADAPTERS_PATH or path.startswith(f"{ADAPTERS_PATH}/"):
        return Kind.ADAPTERS
    if path == EXPERIMENTS_PATH or path.startswith(f"{EXPERIMENTS_PATH}/"):
        return Kind.EXPERIMENTS
    if stored_response(path):
        return Kind.STORED
    return _KINDS.get(path, Kind.DENIED)


def stored_response(path: str) -> str | None:
    """Return which response a path asks for, if it does."""
    found = _STORED_RESPONSE.fullmatch(path)
    return found[1] if found else None


def keyless(kind: Kind) -> bool:
    """Say whether a path asks for no key at all."""
    return kind in _KEYLESS


def opens(role: Role, kind: Kind) -> bool:
    """Say whether keys of a role may ask for a path."""
    return kind in _FOR_ROLE[role]
