"""The half of the registry that only looks: what refs mean, where aliases point, what was done.

Takes no lock and writes nothing. The verbs that change something are in `adapters.registry`.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from adapters.backends import RegistryBackend, backend_for
from adapters.errors import InvalidAdapter, NotFound, RegistryUnavailable, UsageError, nearest
from adapters.experiments import Phase
from adapters.files import differences, digest
from adapters.journals import ABOVE, LOG, aliases_journal, read_entry, read_move, read_phase
from adapters.labels import LABELS, Labels, changed, labels_of
from adapters.standing import PROTECTION, STANDING, Standing, protected, standings
from adapters.types import (
    LATEST,
    PRODUCTION,
    AliasMove,
    LogEntry,
    Ref,
    Version,
    check_alias,
    check_name,
    is_name,
)


@dataclass(frozen=True, slots=True)
class Damaged:
    """What cannot be read of an adapter."""

    name: str
    number: int | None
    """Of the version whose manifest it is; None: a journal, so the whole adapter."""
    error: RegistryUnavailable

    @property
    def ref(self) -> str:
        return f"{self.name}@v{self.number}" if self.number else self.name


@dataclass(slots=True)
class Survey:
    """An adapter at one moment, as far as it can be read."""

    name: str
    aliases: dict[str, int] = field(default_factory=dict)
    standings: dict[int, Standing] = field(default_factory=dict)
    labels: dict[int, Labels] = field(default_factory=dict)
    """Of the versions whose labels were changed."""
    versions: list[Version] = field(default_factory=list)
    """Ascending."""
    damaged: list[Damaged] = field(default_factory=list)


class Reader:
    """Versions, aliases and experiments of many adapters. Readers never wait for writers."""

    def __init__(self, backend: RegistryBackend) -> None:
        self._backend = backend

    @classmethod
    def open(cls, location: str | Path | None = None) -> Self:
        """Open a registry; nothing is created before the first publication.

        `location`: a folder; None means $ADAPTERS_REGISTRY, else $ADAPTERS_HOME, else ~/.adapters.

        Raises:
            UsageError: a location no backend serves.
        """
        environment = os.environ.get("ADAPTERS_REGISTRY") or os.environ.get("ADAPTERS_HOME")
        return cls(backend_for(str(location or environment or "~/.adapters")))

    @property
    def location(self) -> str:
        return self._backend.location

    def names(self) -> list[str]:
        """Return the adapters that have a version, sorted."""
        return self._backend.names()

    def versions(self, name: str) -> list[Version]:
        """Return an adapter's versions, ascending.

        Raises:
            InvalidName, NotFound: no such adapter; the message names the nearest ones.
        """
        found = []
        for number in self._numbers(name):
            with suppress(NotFound):  # deleted since its number was read
                found.append(self._backend.open(name, number))
        return found

    def survey(self, name: str, *, whole: bool = True, labels: bool = False) -> Survey:
        """Look at an adapter, each of its journals once; what cannot be read is told apart.

        Not `whole`: only the version that the bare name means, whatever its standing. `labels`:
        read those that were changed, too.

        Raises:
            InvalidName, NotFound: no such adapter; the message names the nearest ones.
        """
        numbers = self._numbers(name)
        try:
            found = Survey(name, self.aliases(name), self.standings(name))
            if labels:
                found.labels = self._changed_labels(name)
        except RegistryUnavailable as error:
            return Survey(name, damaged=[Damaged(name, None, error)])
        if not whole:
            latest = _latest(numbers, found.standings)
            numbers = [found.aliases.get(PRODUCTION) or latest]
        for number in numbers:
            try:
                found.versions.append(self._backend.open(name, number))
            except NotFound:
                continue  # deleted since its number was read
            except RegistryUnavailable as error:
                found.damaged.append(Damaged(name, number, error))
        return found

    def aliases(self, name: str) -> dict[str, int]:
        """Return where each alias of an adapter points, by alias; `latest` is not among them."""
        current = {}
        for journal in self._backend.journals(check_name(name), "aliases"):
            lines = self._backend.read(name, journal)
            target = read_move(lines[-1]).to_version if lines else None
            if target is not None:
                current[journal.removeprefix("aliases/")] = target
        return current

    def standings(self, name: str) -> dict[int, Standing]:
        """Return the retired and quarantined versions of an adapter, by number."""
        return standings(self._rulings(name, STANDING))

    def labels(self, version: Version) -> Labels:
        """Return the tags and notes of a version as they are now."""
        return labels_of(version, self._changed_labels(version.name))

    def protected(self, name: str) -> list[str]:
        """Return the aliases of an adapter that move only where it is confirmed, sorted."""
        return protected(self._rulings(name, PROTECTION))

    def resolve(self, ref: str | Ref) -> Version:
        """Return the version that a ref means. A bare name: `production`, else `latest`.

        `latest` is the latest in good standing. A number or a digest finds retired and
        quarantined versions too.

        Raises:
            InvalidName: not a ref.
            NotFound: no such adapter, version, alias or digest.
            Retired, Quarantined: what an alias points at, or every version.
            UsageError: a digest that several versions begin with.
        """
        ref = Ref.parse(ref) if isinstance(ref, str) else ref
        number = self.number(ref)
        if not ref.number and not ref.digest and (s := self.standings(ref.name).get(number)):
            raise s.refusal(ref.name, number)
        return self._backend.open(ref.name, number)

    def number(self, ref: Ref) -> int:
        """Return the number of the version that a ref means, whatever its standing.

        What a number names need not be there, and what is there need not be readable.

        Raises:
            NotFound, UsageError: as `resolve`.
        """
        numbers = self._numbers(ref.name)
        if ref.digest:
            return self._by_digest(ref, numbers)
        if ref.number:
            return ref.number
        aliases = self.aliases(ref.name)
        if ref.alias is None:
            return aliases.get(PRODUCTION) or self._latest(ref.name, numbers)
        if ref.alias == LATEST:
            return self._latest(ref.name, numbers)
        if ref.alias not in aliases:
            raise self._no_alias(ref.name, ref.alias)
        return aliases[ref.alias]

    def ground(self, version: Version) -> Version | None:
        """Return what a prompt-only version stands on, whatever its standing; None: the base.

        Raises:
            NotFound: it is not in this registry.
        """
        return self.resolve(version.manifest.on) if version.manifest.on else None

    def history(self, name: str, alias: str = PRODUCTION) -> list[AliasMove]:
        """Return every move of an alias, oldest first; empty where there is no such alias."""
        journal = aliases_journal(check_alias(alias))
        return [read_move(line) for line in self._backend.read(check_name(name), journal)]

    def log(self, name: str) -> list[LogEntry]:
        """Return what was done to an adapter, oldest first.

        What was done counts before it is noted here. A writer killed in between leaves a gap:
        versions and the histories of aliases are complete, this is their audit.

        Raises:
            InvalidName, NotFound: no such adapter, and there never was.
        """
        entries = self._rulings(name, LOG)
        if not entries:
            self._numbers(name)
        return entries

    def verify(self, ref: str | Ref) -> Version:
        """Read every byte of a version again and compare it with its manifest.

        Raises:
            InvalidName, NotFound, UsageError: as `resolve`.
            InvalidAdapter: a file was changed, added or removed; the message names each.
        """
        ref = Ref.parse(ref) if isinstance(ref, str) else ref
        version = self._backend.open(ref.name, self.number(ref))
        said = differences(version.path, version.manifest.files)
        if digest(version.manifest.files) != version.manifest.digest:
            said.append("manifest.json was changed")
        if said:
            raise InvalidAdapter(
                f"{version.ref} is not what was published: {'; '.join(said)}.",
                fix="Restore its folder from a copy, or publish it again as a new version.",
            )
        return version

    def experiment(self, name: str) -> Phase | None:
        """Return the latest phase of the experiment on an adapter that is not over, if there is
        one: it runs or is paused."""
        for journal in self._backend.journals(check_name(name), "experiments"):
            lines = self._backend.read(name, journal)
            if lines and (phase := read_phase(lines[-1])).status != "stopped":
                return phase
        return None

    def experiments(self, name: str) -> list[list[Phase]]:
        """Return the phases of every experiment that an adapter had or has, the oldest first.

        Raises:
            InvalidName, NotFound: no such adapter.
        """
        self._numbers(name)
        found = [
            [read_phase(line) for line in self._backend.read(name, journal)]
            for journal in self._backend.journals(name, "experiments")
        ]
        return sorted(filter(None, found), key=lambda phases: phases[0].time)

    def phases(self, name: str, experiment: str | None = None) -> list[Phase]:
        """Return the phases of one experiment on an adapter, oldest first.

        `experiment`: its name; None: the one that is not over, else the last.

        Raises:
            InvalidName, NotFound: no such adapter, or no such experiment; names the nearest.
        """
        ran = self.experiments(name)
        named = [phases for phases in ran if experiment in (None, phases[0].experiment)]
        if not named:
            known = [phases[0].experiment for phases in ran]
            raise NotFound(
                f"{name} has no experiment {experiment!r}."
                if known
                else f"{name} has no experiment.",
                fix=nearest(experiment or "", known) or f"See: adapters ab log {name}"
                if known
                else "Start one: adapters ab start --help",
            )
        return next((each for each in named if each[-1].status != "stopped"), named[-1])

    # -- inside -------------------------------------------------------------------------------

    def _no_alias(self, name: str, alias: str) -> NotFound:
        """Return what to tell somebody who asks for an alias that there is not."""
        numbers = self._numbers(name)
        known = [LATEST, *self.aliases(name), *(f"v{number}" for number in numbers)]
        return NotFound(
            f"{name} has no alias {alias!r}.",
            fix=nearest(alias, known) or f"It has {', '.join(known[:12])}.",
        )

    def _numbers(self, name: str) -> list[int]:
        numbers = self._backend.numbers(check_name(name))
        if not numbers:
            known = self.names()
            hint = nearest(name, known) if known else "The registry is empty: adapters train --help"
            raise NotFound(
                f"No adapter {name!r} in {self.location}.", fix=hint or "See: adapters list"
            )
        return numbers

    def _latest(self, name: str, numbers: list[int]) -> int:
        """Return the last number in good standing, or the last where none is."""
        return _latest(numbers, self.standings(name))

    def _changed_labels(self, name: str) -> dict[int, Labels]:
        return changed(self._rulings(name, LABELS))

    def _rulings(self, name: str, journal: str) -> list[LogEntry]:
        return [read_entry(line) for line in self._backend.read(check_name(name), journal)]

    def _above(self, name: str) -> list[str]:
        """Return the adapters of which versions stand, or once stood, on versions of this one."""
        noted = {entry.detail.get("adapter") for entry in self._rulings(name, ABOVE)}
        return sorted(above for above in noted if isinstance(above, str) and is_name(above))

    def _by_digest(self, ref: Ref, numbers: list[int]) -> int:
        assert ref.digest
        found: dict[int, str] = {}
        unreadable = None
        for number in numbers if ref.number is None else {ref.number} & {*numbers}:
            try:
                digest = self._backend.open(ref.name, number).manifest.digest
            except NotFound:
                continue  # deleted since its number was read
            except RegistryUnavailable as error:
                unreadable = error
                continue
            if digest.startswith(ref.digest):
                found[number] = digest
        if not found:
            raise unreadable or NotFound(
                f"No version is {ref}.", fix=f"See: adapters list {ref.name}"
            )
        if len(set(found.values())) > 1:
            raise UsageError(f"{ref} means several versions.", fix="Write more of the digest.")
        return max(found)


def _latest(numbers: Sequence[int], against: Container[int]) -> int:
    return next((n for n in reversed(numbers) if n not in against), numbers[-1])
