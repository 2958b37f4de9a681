"""What keeps a version that is still there from being chosen and served, and an alias from moving.

Rulings are lines of two journals, each in the form of a log entry; the last one on a version or
an alias stands. Pure: who may rule when is `adapters.housekeeping`'s, what follows is the
registry's and the server's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adapters.errors import AdaptersError, Quarantined, Retired
from adapters.types import LogEntry

STANDING = "standing"
"""The journal of rulings on versions: retire, restore, quarantine, release."""
PROTECTION = "protection"
"""The journal of rulings on aliases: protect, unprotect."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Why a version is not chosen and not served; one that has none is in good standing."""

    state: Literal["retired", "quarantined"]
    reason: str
    time: str
    actor: str

    def refusal(self, name: str, number: int) -> AdaptersError:
        """Return what to tell somebody who asks for the version."""
        why = f": {self.reason.rstrip('.')}." if self.reason else "."
        if self.state == "retired":
            return Retired(
                f"{name}@v{number} was retired on {self.time[:10]}{why}",
                fix=f"Ask for {name}, or for another of its versions.",
            )
        return Quarantined(
            f"{name}@v{number} is quarantined, it was found damaged on {self.time[:10]}{why}",
            fix=f"Once its files are restored: adapters verify {name}@v{number}",
        )


def standings(rulings: Iterable[LogEntry]) -> dict[int, Standing]:
    """Return the versions that are not in good standing, by number.

    Retirement and quarantine are ruled upon apart; a version under both is quarantined.
    """
    retired: dict[int, Standing] = {}
    quarantined: dict[int, Standing] = {}
    for ruling in rulings:
        if ruling.version is None:
            continue
        reason = str(ruling.detail.get("reason", ""))
        if ruling.action == "retire":
            retired[ruling.version] = Standing("retired", reason, ruling.time, ruling.actor)
        elif ruling.action == "restore":
            retired.pop(ruling.version, None)
        elif ruling.action == "quarantine":
            said = Standing("quarantined", reason, ruling.time, ruling.actor)
            quarantined[ruling.version] = said
        elif ruling.action == "release":
            quarantined.pop(ruling.version, None)
    return retired | quarantined


def protected(rulings: Iterable[LogEntry]) -> list[str]:
    """Return the aliases that move only on a word more, sorted."""
    found = set()
    for ruling in rulings:
        if ruling.alias and ruling.action == "protect":
            found.add(ruling.alias)
        elif ruling.alias and ruling.action == "unprotect":
            found.discard(ruling.alias)
    return sorted(found)
