"""The API keys of this machine: who may ask a server, and whether anybody else can read of them."""

from __future__ import annotations

from collections.abc import Iterator

from adapters.doctor.finding import Finding, failed
from adapters.errors import AdaptersError
from adapters.keys import KeyJournal


def examine_keys() -> Iterator[Finding]:
    """Whether there are keys that open, and whether their file is its owner's alone."""
    journal = KeyJournal()
    try:
        keys = journal.read()
    except AdaptersError as error:
        yield failed("keys", error)
        return
    active = [key for key in keys if key.state() == "active"]
    if not keys:
        yield Finding("ok", "keys", "none: a server answers this machine alone")
    elif not active:
        yield Finding(
            "warn",
            "keys",
            f"all {len(keys)} are expired or revoked: nobody is let in.",
            "adapters keys create --name web --allow '*'",
        )
    else:
        yield Finding("ok", "keys", f"{len(active)} of {len(keys)} open")
    if keys and journal.path.stat().st_mode & 0o077:
        yield Finding(
            "warn",
            "keys",
            f"others may read or write {journal.path}.",
            f"chmod 600 {journal.path}",
        )
