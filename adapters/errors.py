"""The one error tree.

    AdaptersError                exit 1   HTTP 500   anything of ours that went wrong
    ├── UsageError               exit 2   HTTP 400   a flag, a key or a field that cannot be meant
    │   └── InvalidName          exit 2   HTTP 400   not a name, an alias or a ref by the grammar
    ├── NotFound                 exit 3   HTTP 404   no such adapter, version, alias or experiment
    │   └── Retired              exit 3   HTTP 410   still there, and not served any more
    ├── Rejected                 exit 4   HTTP 400   read, understood and refused
    │   ├── InvalidAdapter       exit 4   HTTP 400   vLLM would refuse it, or serve it wrongly
    │   ├── InvalidDataset       exit 4   HTTP 400   rows that cannot be trained on
    │   ├── BaseMismatch         exit 4   HTTP 400   trained on another base than the one served
    │   └── InvalidToken         exit 4   HTTP 400   an assignment token that is not one of ours
    │       └── ExpiredToken     exit 4   HTTP 400   one of ours, and over
    ├── Conflict                 exit 5   HTTP 409   somebody else was first
    └── Unavailable              exit 1   HTTP 503   a place, a port or a package that is not there
        ├── RegistryUnavailable  exit 1   HTTP 503   the registry cannot be read or written
        ├── Quarantined          exit 1   HTTP 503   found damaged, until it verifies again
        └── MissingExtra         exit 1   HTTP 503   an optional dependency is not installed

Exit 130 is an interrupt (Ctrl-C). Each message says what was wrong and where; `fix` says what
to do next. Errors of third parties are translated into these at the line that called them.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class AdaptersError(Exception):
    """Anything of ours that went wrong. `str(error)` is one line and never a stack trace."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".rstrip()


class UsageError(AdaptersError):
    """A flag, a key or a field that cannot be meant."""

    exit_code = 2
    http_status = 400


class InvalidName(UsageError):
    """Not a name, an alias or a ref by the grammar of `adapters.types`."""


class NotFound(AdaptersError):
    """No such adapter, version, alias or experiment."""

    exit_code = 3
    http_status = 404


class Retired(NotFound):
    """A version that is still there and not served any more; the message says what to ask for."""

    http_status = 410


class Rejected(AdaptersError):
    """Read, understood and refused."""

    exit_code = 4
    http_status = 400


class InvalidAdapter(Rejected):
    """vLLM would refuse this adapter or, worse, silently serve it wrongly."""


class InvalidDataset(Rejected):
    """Rows that cannot be trained on. The message names the file and the line."""


class BaseMismatch(Rejected):
    """The adapter was trained on another base than the one served."""


class InvalidToken(Rejected):
    """An assignment token that these keys did not sign, or that was changed since."""


class ExpiredToken(InvalidToken):
    """An assignment token of ours that is over."""


class Conflict(AdaptersError):
    """Somebody else was first: the alias moved, the number is taken, an experiment runs."""

    exit_code = 5
    http_status = 409


class Unavailable(AdaptersError):
    """A place, a port or a package that is not there. Trying again later may work."""

    http_status = 503


class RegistryUnavailable(Unavailable):
    """The registry cannot be read or written."""


class Quarantined(Unavailable):
    """A version that was found damaged. Not chosen and not served until it verifies again."""


class MissingExtra(Unavailable):
    """An optional dependency is not installed. `fix` holds the exact pip line."""


def nearest(word: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Say which known words are closest to a mistyped one, or nothing where none is close.

    >>> nearest("suport", ["support", "tone"])
    'Did you mean support?'
    """
    close = get_close_matches(word, sorted(known), n=limit, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else ""
