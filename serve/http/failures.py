"""Errors as clients expect them: OpenAI's error object, or Anthropic's on its endpoints.

Source: https://platform.openai.com/docs/guides/error-codes and
https://docs.anthropic.com/en/api/errors; types and codes as vLLM writes them where it has one.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from adapters.errors import AdaptersError, NotFound
from serve.http.access import FEEDBACK_PATH
from serve.http.asgi import Header


class RequestRefused(AdaptersError):
    """A request that HTTP itself has a status for: no key, too large, too slow, no such path."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        fix: str = "",
        param: str | None = None,
        code: str | None = None,
    ):
        """`code`: OpenAI's, where the status alone does not tell."""
        super().__init__(message, fix=fix)
        self.status = status
        self.param = param
        self.code = code or _CODES.get(status)


class Later(RequestRefused):
    """What is asked for cannot be had now; the same request may be sent again."""

    def __init__(self, message: str, *, retry_after_s: float):
        super().__init__(503, message, fix="Send the same again in a moment.")
        self.retry_after_s = retry_after_s


class RateLimited(RequestRefused):
    """A key asks for more than it may in this minute."""

    def __init__(self, message: str, *, fix: str, resource: str, retry_after_s: float):
        super().__init__(429, message, fix=fix)
        self.resource = resource
        """`requests` or `tokens`."""
        self.retry_after_s = retry_after_s


STREAM_ERRORS = (b'data: {"error"', b"event: error")
"""How an event begins that says what went wrong: vLLM's, and ours."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    410: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_CODES = {
    401: "invalid_api_key",
    403: "insufficient_permissions",
    408: "request_timeout",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}


def status_of(error: AdaptersError) -> int:
    """Return the HTTP status of one of our errors."""
    return error.status if isinstance(error, RequestRefused) else error.http_status


def kind_of(error: AdaptersError) -> str:
    """Return one of a few words for metrics and logs: the error's class, or its status's type."""
    if isinstance(error, RequestRefused):
        return _TYPES.get(error.status, "invalid_request_error")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def headers_of(error: AdaptersError) -> list[Header]:
    """Return what the headers say of an error: how to authenticate, when to try again."""
    if isinstance(error, RateLimited | Later):
        wait_s = error.retry_after_s
        return [
            (b"retry-after", str(math.ceil(wait_s)).encode()),  # HTTP knows whole seconds
            (b"retry-after-ms", str(math.ceil(wait_s * 1000)).encode()),
        ]
    return [(b"www-authenticate", b"Bearer")] if status_of(error) == 401 else []


def document(error: AdaptersError, path: str) -> dict[str, Any]:
    """Return the error body for a request to `path`."""
    status = status_of(error)
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": kind, "message": str(error)}}
    if status in (404, 410):
        kind = "invalid_request_error"  # what OpenAI itself says of an unknown model
    elif isinstance(error, RateLimited):
        kind = error.resource  # and of a limit
    return {
        "error": {
            "message": str(error),
            "type": kind,
            "param": _param(error, path),
            "code": _code(error, path),
        }
    }


def event(error: AdaptersError, path: str) -> bytes:
    """Return the event that tells an error in a stream from `path`."""
    said = json.dumps(document(error, path), separators=(",", ":"))
    kind = "event: error\n" if path.startswith("/v1/messages") else ""
    return f"{kind}data: {said}\n\n".encode()


def _param(error: AdaptersError, path: str) -> str | None:
    if isinstance(error, RequestRefused):
        return error.param
    return None if path == FEEDBACK_PATH else "model"


def _code(error: AdaptersError, path: str) -> str | None:
    if isinstance(error, RequestRefused):
        return error.code
    if path == FEEDBACK_PATH:
        return kind_of(error)
    return "model_not_found" if isinstance(error, NotFound) else _CODES.get(status_of(error))
