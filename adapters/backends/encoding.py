"""How registries write JSON, wherever they keep it. Does not know what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapters.errors import UsageError


def encoded(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Return one JSON document and a newline, in UTF-8.

    Raises:
        UsageError: it holds what JSON cannot (NaN, an object of no JSON type, half a character).
    """
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The registry keeps JSON, and this is none: {error}.",
            fix="Give numbers that are finite, text that is Unicode, lists and mappings of these.",
        ) from error
