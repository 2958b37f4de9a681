"""What the Hub's client raises, as errors of ours.

No message repeats a URL, a header or a token.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path

from adapters.errors import AdaptersError, Conflict, InvalidName
from adapters.errors import RegistryUnavailable as Unavailable

_BUSY = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
_TOKEN = re.compile(r"\bhf_\w+")


def repeatable(error: Exception) -> Exception | None:
    """Return the error of a call that may be repeated; the client wraps some in its own."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, RuntimeError):
        return repeatable(error.__cause__) if isinstance(error.__cause__, Exception) else None
    if isinstance(error, HfHubHTTPError) and error.response.status_code not in _BUSY:
        return None
    return error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the client raises while `doing` something into errors of ours."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
    )

    try:
        yield
    except AdaptersError:
        raise
    except HFValidationError as error:
        raise InvalidName(
            f"Cannot {doing}: the Hub allows no such name.",
            fix="Leave out '--' and '..', and end it with a letter or a digit.",
        ) from error
    except HfHubHTTPError as error:
        raise _of_status(doing, error.response.status_code, error.server_message or "") from error
    except LocalTokenNotFoundError as error:
        raise Unavailable(
            f"Cannot {doing}: there is no token.", fix="Log in: hf auth login, or set HF_TOKEN"
        ) from error
    except JSONDecodeError as error:
        raise Unavailable(
            f"Cannot {doing}: the answer is no JSON.", fix="Check that HF_ENDPOINT is a Hub."
        ) from error
    except OSError as error:  # of the client's own: a length that is not what was promised
        raise Unavailable(f"Cannot {doing}: not all of it came.", fix="Try again.") from error
    except HTTPError as error:
        raise Unavailable(
            f"Cannot {doing}: {type(error).__name__}, the Hub is out of reach.",
            fix="Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, and try again.",
        ) from error
    except RuntimeError as error:
        raise Unavailable(
            f"Cannot {doing}: the upload failed ({type(error.__cause__ or error).__name__}).",
            fix="Try again: what was uploaded is not sent twice.",
        ) from error


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Turn what this machine's disk raises into errors of ours; the client's own errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Unavailable(
            f"Cannot read or write {error.filename or path}: {error.strerror}.",
            fix="Free some space there and try again: what was fetched is not fetched twice."
            if full
            else "Check the folder and its rights, or set ADAPTERS_HOME to another.",
        ) from error


def _of_status(doing: str, status: int, said: str) -> AdaptersError:
    detail = f"HTTP {status}{f', {plain(said)}' if said else ''}"
    if status in (409, 412):
        return Conflict(
            f"Cannot {doing}: other writers were first, every time ({detail}).", fix="Try again."
        )
    if status in (401, 403, 404):
        return Unavailable(
            f"Cannot {doing}: {detail}.",
            fix="Check the name and the rights of your token: hf auth whoami, hf auth login",
        )
    return Unavailable(f"Cannot {doing}: {detail}.", fix="Wait a while and try again.")


def plain(said: str) -> str:
    """Return a server's words on one line, short, without anything like a token."""
    return _TOKEN.sub("hf_…", " ".join(said.split()))[:200].rstrip(". ")
