"""`GET /v1/models`: what can be asked for, in OpenAI's shape. Pure; shows no file paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from adapters.errors import AdaptersError
from adapters.types import LATEST, Version
from serve.routes.routing import Base, ground_of, route
from serve.routes.snapshot import Snapshot

_OWNER = "switchyard"


def listing(snapshot: Snapshot, base: Base) -> dict[str, Any]:
    """Return every name that leads somewhere on this base: base, adapters, aliases, versions."""
    cards = []
    for name in _names(snapshot, base):
        with suppress(AdaptersError):  # trained on another base, or an alias left behind
            cards.append(card(snapshot, base, name))
    return {"object": "list", "data": cards}


def card(snapshot: Snapshot, base: Base, model: str) -> dict[str, Any]:
    """Return one model object: `root` is the engine name behind it now, `parent` the base or the
    version that it stands on, if seen.

    A name under an experiment shows what stands behind it without one; the answers themselves
    say which arm they came from.

    Raises:
        As `serve.routes.routing.route`.
    """
    version = route(snapshot, base, model, None).version
    created = datetime.fromisoformat(version.manifest.created_at).timestamp() if version else 0
    return {
        "id": model,
        "object": "model",
        "created": int(created),
        "owned_by": _OWNER,
        "root": version.engine_name if version else base.names[0],
        "parent": _parent(snapshot, base, version) if version else None,
    }


def _parent(snapshot: Snapshot, base: Base, version: Version) -> str | None:
    with suppress(AdaptersError):  # not served for now, or not for this caller
        if ground := ground_of(snapshot, version):
            return ground.engine_name
    return base.names[0] if base.names else None


def _names(snapshot: Snapshot, base: Base) -> Iterator[str]:
    yield from base.names
    for name, adapter in snapshot.adapters.items():
        if name not in base.names:  # the base goes first where an adapter bears its name
            yield name
        for alias in (*adapter.aliases, LATEST):
            yield f"{name}@{alias}"
        for number in adapter.versions:
            yield f"{name}@v{number}"
