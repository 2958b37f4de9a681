"""Asks a running server what it has, over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from adapters.errors import AdaptersError, Rejected, Unavailable, UsageError

_TIMEOUT_S = 10


def listing(url: str, api_key: str | None = None) -> list[dict[str, Any]]:
    """Return a row a version, as `GET /v1/adapters` of the server at `url` gives them.

    Raises:
        UsageError: no URL of HTTP.
        Unavailable: nobody answers there.
        Rejected: the key is none, or opens too little.
        AdaptersError: what answers is no server of ours.
    """
    document = ask(f"{url.rstrip('/')}/v1/adapters", api_key)
    rows = document.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise AdaptersError(f"What answers at {url} is no `adapters serve`.", fix="Check --url.")
    return rows


def ask(url: str, api_key: str | None = None) -> dict[str, Any]:
    """GET one JSON object; see `listing`. A 503 with a document is an answer."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not a URL.", fix="E.g. --url http://127.0.0.1:8000")
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S
        ) as reply:
            body = reply.read()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise Rejected(
                f"The server wants another key ({error.code}).",
                fix="Give one with --api-key or ADAPTERS_API_KEY.",
            ) from error
        body = error.read()
        if error.code != 503:
            raise AdaptersError(f"{url} answers {error.code}.", fix="Check --url.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(
            f"No server answers at {url}: {reason}.",
            fix="Start one with adapters serve, or name it with --url.",
        ) from error
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise AdaptersError(f"What answers at {url} is no `adapters serve`.", fix="Check --url.")
    return document
