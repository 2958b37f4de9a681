"""One line of `adapters doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapters.errors import AdaptersError


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands, and what to do; `fix` is empty where all is well."""

    verdict: Literal["ok", "warn", "fail"]
    subject: str
    said: str
    fix: str = ""


def failed(subject: str, error: AdaptersError) -> Finding:
    """Return what an error of ours says as a finding."""
    return Finding("fail", subject, error.message, error.fix)
