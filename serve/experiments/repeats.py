"""Whether a unit asks for the very same again: what it was answered was not what it wanted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from serve.experiments.store.base import Exposure

ASKED = ("system", "instructions", "messages", "prompt", "input")
"""What of a body is asked, whatever it asks for beside (sampling, a limit, a stream)."""
_WITHIN_S = 600.0
_MOST = 20_000


def question(exposure: Exposure, content: Mapping[str, Any]) -> bytes:
    """Return what stands for one unit's question in an experiment; empty where nobody is known."""
    if exposure.source == "request":
        return b""
    asked = [content.get(name) for name in ASKED]
    said = json.dumps([exposure.experiment, exposure.unit, asked]).encode()
    return hashlib.blake2b(said, digest_size=16).digest()


class Repeats:
    """Questions that were answered within the last ten minutes, the last 20 000 at most."""

    def __init__(self) -> None:
        self._answered: dict[bytes, float] = {}

    def answered(self, question: bytes) -> None:
        """Note that a question has its answer by now."""
        if not question:
            return
        self._answered.pop(question, None)
        self._answered[question] = time.monotonic()
        if len(self._answered) > _MOST:
            del self._answered[next(iter(self._answered))]

    def again(self, question: bytes) -> bool:
        """Say whether a question had its answer before."""
        at_s = self._answered.get(question)
        return at_s is not None and time.monotonic() - at_s < _WITHIN_S
