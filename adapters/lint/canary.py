"""canary.json: that servers can read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapters.canary import read
from adapters.errors import InvalidAdapter
from adapters.files import CANARY_FILE
from adapters.lint.findings import Finding


def check_canary(folder: Path) -> Iterator[Finding]:
    """Check the answers that were recorded, where there are any."""
    if (folder / CANARY_FILE).exists():
        try:
            read(folder / CANARY_FILE)
        except InvalidAdapter as error:
            yield Finding("canary", CANARY_FILE, error.message.rstrip("."), error.fix)
