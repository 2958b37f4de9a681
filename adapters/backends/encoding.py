"""How registries write JSON, wherever they keep it. Does not know what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapters.errors import UsageError

MOST_DOCUMENT_BYTES = 4 << 20
"""Of a manifest, a tombstone or a line of a journal; none of ours comes near it."""


def encoded(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Return one JSON document and a newline, in UTF-8.

    Raises:
        UsageError: it holds what JSON cannot (NaN, an object of no JSON type, half a character),
            or is too large to be read back.
    """
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
        written = text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The registry keeps JSON, and this is none: {error}.",
            fix="Give numbers that are finite, text that is Unicode, lists and mappings of these.",
        ) from error
    if len(written) > MOST_DOCUMENT_BYTES:
        raise UsageError(
            f"{len(written):,} bytes are too much for one document of the registry.",
            fix=f"Keep notes, recipe and the like below {MOST_DOCUMENT_BYTES:,} bytes.",
        )
    return written
