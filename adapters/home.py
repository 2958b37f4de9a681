"""Where this machine keeps what is its own: $ADAPTERS_HOME, else ~/.adapters."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder; it need not exist."""
    return Path(os.environ.get("ADAPTERS_HOME") or "~/.adapters").expanduser().absolute()


def hub_cache(org: str = "") -> Path:
    """Return where versions of `hf://org` are kept once fetched; of all of them without `org`."""
    return home() / "cache" / "hub" / org
