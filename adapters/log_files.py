"""What servers of this machine wrote down: `$ADAPTERS_HOME/logs/serve-PORT.jsonl`, JSON lines.

Written by `serve.watching.logs`, which moves a full file aside; read here, also while it is
written.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.errors import NotFound
from adapters.home import home

_PAUSE_S = 0.2


def log_file(port: int) -> Path:
    """Return where the server on a port writes."""
    return home() / "logs" / f"serve-{port}.jsonl"


def last(port: int, number: int, adapter: str | None = None) -> list[dict[str, Any]]:
    """Return the last lines, oldest first; with `adapter`, those of requests to it alone.

    Raises:
        NotFound: no server has written there.
    """
    path = log_file(port)
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return list(deque(_kept(file, adapter), maxlen=number))
    except FileNotFoundError:
        others = sorted(p.stem.removeprefix("serve-") for p in path.parent.glob("serve-*.jsonl"))
        raise NotFound(
            f"No server has logged on port {port} here ({path}).",
            fix=f"There are logs of --port {', '.join(others)}."
            if others
            else "Start one: adapters serve",
        ) from None


def follow(port: int, adapter: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield lines as they are written, from now on and for ever."""
    path = log_file(port)
    file = path.open(encoding="utf-8", errors="replace")
    file.seek(0, os.SEEK_END)
    rest = ""
    while True:
        read = file.read()
        *whole, rest = (rest + read).split("\n")
        yield from _kept(iter(whole), adapter)
        if read:
            continue
        if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            file.close()  # moved aside, full: what comes is in a new one
            file, rest = path.open(encoding="utf-8", errors="replace"), ""
        time.sleep(_PAUSE_S)


def _kept(lines: Iterator[str], adapter: str | None) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:  # cut by a full disk or a kill
            continue
        if isinstance(content, dict) and adapter in (None, content.get("adapter")):
            yield content
