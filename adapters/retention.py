"""What garbage is: versions that nobody holds, nobody can roll back to, and nothing comes from.

Kept are what an alias points at and what one rollback would bring back, the arms of running
experiments, what running servers have loaded, the last few versions of each adapter, and of all
these the parents, so that lineage leads somewhere, and what they stand on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from adapters import leases
from adapters.errors import Conflict, NotFound, UsageError
from adapters.housekeeping import Housekeeping
from adapters.journals import promotions
from adapters.types import Version, versions_named


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of the disk a version takes."""

    version: str
    """Its ref, e.g. `support@v3`."""
    size_bytes: int


class Retention(Housekeeping):
    """The registry, and what may go from it."""

    def usage(self) -> list[Usage]:
        """Return the size of every version by its manifest, by name and number."""
        return [_usage(version) for name in self.names() for version in self.versions(name)]

    def garbage(self, *, keep_last: int) -> list[Version]:
        """Return the versions that `collect` would delete now, by name and number.

        Raises:
            UsageError: `keep_last` below 0.
            RegistryUnavailable: a manifest, a journal or a lease that cannot be read; then
                nothing is known to be garbage.
        """
        if keep_last < 0:
            raise UsageError(f"Cannot keep the last {keep_last}.", fix="Use --keep-last 0 or more.")
        every = {(v.name, v.number): v for name in self.names() for v in self.versions(name)}
        kept: set[tuple[str, int]] = set()
        for name in {name for name, _ in every}:
            numbers = [number for each, number in every if each == name]
            last = numbers[max(0, len(numbers) - keep_last) :]
            kept |= {(name, number) for number in (*last, *self._held(name))}
        looked_at: set[tuple[str, int]] = set()
        while unseen := (kept & every.keys()) - looked_at:
            looked_at |= unseen
            for key in unseen:
                manifest = every[key].manifest
                kept |= versions_named(manifest.parents)
                if on := manifest.on:  # a parent too, but under this registry's own number
                    kept |= {
                        each
                        for each, version in every.items()
                        if (each[0], version.manifest.digest) == (on.name, on.digest)
                    }
        return [version for key, version in every.items() if key not in kept]

    def plan(self, *, keep_last: int) -> list[Usage]:
        """Return what `collect` would delete now. Raises as `garbage`."""
        return [_usage(version) for version in self.garbage(keep_last=keep_last)]

    def collect(self, *, keep_last: int) -> list[Usage]:
        """Delete the garbage, and what killed writers and servers left; return what went.

        What somebody came to hold in the meantime stays.

        Raises:
            As `garbage`. What was deleted before stays deleted.
        """
        gone, garbage = [], self.garbage(keep_last=keep_last)
        for version in garbage:
            with self._backend.writing(version.name), suppress(NotFound, Conflict):
                if version.number not in self._held(version.name):
                    self._bury(version.name, version.number, f"gc, keeping the last {keep_last}")
                    gone.append(_usage(version))
        for name in {*self.names(), *(version.name for version in garbage)}:
            self._free(name)
        leases.sweep(self.location)
        return gone

    def _held(self, name: str) -> set[int]:
        """Return the numbers of an adapter that somebody holds or one rollback brings back."""
        held = set(self.aliases(name).values())
        for journal in self._backend.journals(name, "aliases"):
            stack = promotions(self.history(name, journal.removeprefix("aliases/")))
            held |= {number for number in stack[-2:] if number is not None}
        if phase := self.experiment(name):
            held |= phase.versions()
        for lease in leases.leases(self.location):
            held |= {number for each, number in lease.versions if each == name}
        return held


def _usage(version: Version) -> Usage:
    return Usage(version.ref, sum(file.size_bytes for file in version.manifest.files.values()))
