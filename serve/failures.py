"""Errors as clients expect them: OpenAI's error object, or Anthropic's on its endpoints.

Source: https://platform.openai.com/docs/guides/error-codes and
https://docs.anthropic.com/en/api/errors; types and codes as vLLM writes them where it has one.
"""

from __future__ import annotations

import re
from typing import Any

from adapters.errors import AdaptersError, NotFound


class RequestRefused(AdaptersError):
    """A request that HTTP itself has a status for: no key, too large, too slow, no such path."""

    def __init__(self, status: int, message: str, *, fix: str = "", param: str | None = None):
        super().__init__(message, fix=fix)
        self.status = status
        self.param = param


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    410: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    503: "service_unavailable_error",
}
_CODES = {401: "invalid_api_key", 413: "request_too_large", 408: "request_timeout"}


def status_of(error: AdaptersError) -> int:
    """Return the HTTP status of one of our errors."""
    return error.status if isinstance(error, RequestRefused) else error.http_status


def kind_of(error: AdaptersError) -> str:
    """Return one of a few words for metrics and logs: the error's class, or its status's type."""
    if isinstance(error, RequestRefused):
        return _TYPES.get(error.status, "invalid_request_error")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def document(error: AdaptersError, path: str) -> dict[str, Any]:
    """Return the error body for a request to `path`."""
    status = status_of(error)
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": kind, "message": str(error)}}
    if status in (404, 410):
        kind = "invalid_request_error"  # what OpenAI itself says of an unknown model
    return {
        "error": {
            "message": str(error),
            "type": kind,
            "param": error.param if isinstance(error, RequestRefused) else "model",
            "code": "model_not_found" if isinstance(error, NotFound) else _CODES.get(status),
        }
    }
