"""What a client posts back: outcomes as `/v1/feedback` takes them, read from JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.errors import UsageError
from serve.experiments.store.base import MOST_OUTCOMES, Value

BATCH = "outcomes"
"""The one field of a body that posts several."""
_WORDS = ("metric", "comment", "idempotency_key", "token", "id")
_FIELDS = frozenset({*_WORDS, "value"})
_PREFIXES = ("chatcmpl-", "cmpl-")
"""Before the request's id in the id of an answer, as vLLM makes it; /v1/messages has the first."""
_FIX = (
    'Send {"metric": "solved", "value": true, "token": …}: x-assignment of the answer; or its "id".'
)


@dataclass(frozen=True, slots=True)
class Posted:
    """One outcome as somebody posts it; of `token` and `id` one says of which answer."""

    metric: str
    value: Value
    comment: str
    idempotency_key: str
    token: str
    id: str

    def request_ids(self) -> tuple[str, ...]:
        """Return what the request may be called whose answer has this `id`, likeliest first."""
        for prefix in _PREFIXES:
            if self.id.startswith(prefix):
                return self.id.removeprefix(prefix), self.id
        return (self.id,)


def entries(content: Mapping[str, Any]) -> list[Any]:
    """Return what a body posts, unread: itself, or each of its `outcomes`.

    Raises:
        UsageError: it is no batch, or too large a one.
    """
    if BATCH not in content:
        return [content]
    found = content[BATCH]
    if unknown := content.keys() - {BATCH}:
        raise UsageError(f"{_named(unknown)} stands beside `{BATCH}`.", fix="Put it into each.")
    if not isinstance(found, list) or not found:
        raise UsageError(f"`{BATCH}` lists no outcomes.", fix="Send one or more.")
    if len(found) > MOST_OUTCOMES:
        raise UsageError(f"{len(found):,} outcomes at once.", fix=f"{MOST_OUTCOMES:,} is the most.")
    return found


def read(entry: Any, token: str | None) -> Posted:
    """Read one outcome. `token`: of the request's header, where the outcome names no answer.

    Raises:
        UsageError: a field is missing, unknown or of a wrong type.
    """
    if not isinstance(entry, dict):
        raise UsageError("An outcome is not an object.", fix=_FIX)
    if unknown := entry.keys() - _FIELDS:
        raise UsageError(f"{_named(unknown)} is no field of an outcome.", fix=_FIX)
    said = {name: entry.get(name) for name in _WORDS}
    for name, text in said.items():
        if text is not None and not isinstance(text, str):
            raise UsageError(f"`{name}` is not a text.", fix=_FIX)
    value = entry.get("value")
    if not isinstance(value, bool | int | float | str):
        missing = "is missing" if "value" not in entry else "is no number, boolean or label"
        raise UsageError(f"`value` {missing}.", fix=_FIX)
    if not said["metric"]:
        raise UsageError("`metric` is missing.", fix=_FIX)
    if said["token"] and said["id"]:
        raise UsageError("Both `token` and `id` say which answer.", fix="Send one of them.")
    if not said["token"] and not said["id"]:
        said["token"] = token
    if not said["token"] and not said["id"]:
        raise UsageError("Nothing says which answer it is about.", fix=_FIX)
    return Posted(value=value, **{name: text or "" for name, text in said.items()})


def _named(fields: set[str]) -> str:
    return f"`{min(fields)[:40]}`"
