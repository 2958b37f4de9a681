"""The registry as routing sees it: an immutable picture, held in memory.

Taking one reads files and belongs on a thread (`serve.routes.follower`); looking at one never
blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from adapters.errors import AdaptersError, NotFound
from adapters.experiments import Phase
from adapters.registry import Registry
from adapters.standing import Standing
from adapters.types import LATEST, PRODUCTION, Version


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter at one moment."""

    versions: Mapping[int, Version]
    """By number, ascending; never empty."""
    aliases: Mapping[str, int]
    phase: Phase | None
    """Of the experiment on it that is not over, if there is one."""
    standings: Mapping[int, Standing] = field(default_factory=dict)
    """Why versions are not served to new requests, by number; the others are."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Aliases, `latest` among them, that lead here where they led before: what they moved to in
    the registry is not loaded yet, or is refused (`serve.loading.handover`)."""

    @property
    def latest(self) -> int:
        """The last version in good standing, or the last where none is."""
        return max(self.versions.keys() - self.standings.keys(), default=max(self.versions))

    @property
    def running(self) -> Phase | None:
        """The experiment's phase, where it splits requests now."""
        return self.phase if self.phase and self.phase.status == "running" else None

    @property
    def plain(self) -> str:
        """The alias that the name alone goes through, where no experiment runs."""
        return PRODUCTION if PRODUCTION in self.aliases else LATEST

    def moved_to(self, alias: str) -> int | None:
        """Return where the registry has an alias lead, `latest` included; None: there is none."""
        return self.latest if alias == LATEST else self.aliases.get(alias)

    def named(self) -> set[int]:
        """Return the versions that a name, an alias or the experiment leads to."""
        tried = self.phase.versions() if self.phase else set()
        return ({self.latest, *self.aliases.values()} | tried) & self.versions.keys()

    def leads_to(self, alias: str) -> int | None:
        """Return where an alias leads here, `latest` included; None: there is none."""
        return self.kept.get(alias) or self.moved_to(alias)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All adapters at one moment."""

    adapters: Mapping[str, Adapter]
    troubles: tuple[str, ...] = ()
    """What could not be read; those adapters stand as they stood in the snapshot before."""
    reachable: bool = True
    """False where nothing of the registry could be read."""

    def versions(self) -> list[Version]:
        """Return every version of every adapter that new requests may ask for."""
        return [
            version
            for adapter in self.adapters.values()
            for number, version in adapter.versions.items()
            if number not in adapter.standings
        ]


EMPTY = Snapshot(MappingProxyType({}))


def take(registry: Registry, before: Snapshot = EMPTY) -> Snapshot:
    """Read the registry. What cannot be read for a moment stays as it was `before`.

    A version that could not be read before either is left out; the others are served. What is as
    it was `before` is the same object, all of it too: nobody need look at it again.
    """
    adapters: dict[str, Adapter] = {}
    troubles: list[str] = []
    try:
        names = registry.names()
    except AdaptersError as error:
        return Snapshot(before.adapters, (str(error),), reachable=False)
    for name in names:
        try:
            adapters[name] = _read(registry, name, before.adapters.get(name), troubles)
        except AdaptersError as error:  # damaged, or a version deleted while we looked
            troubles.append(str(error))
            if name in before.adapters:
                adapters[name] = before.adapters[name]
    after = Snapshot(MappingProxyType(adapters), tuple(troubles))
    return before if after == before else after


def _read(registry: Registry, name: str, before: Adapter | None, troubles: list[str]) -> Adapter:
    found = registry.survey(name)
    versions = {version.number: version for version in found.versions}
    for each in found.damaged:
        if each.number is None:
            raise each.error
        troubles.append(str(each.error))
        if before and each.number in before.versions:
            versions[each.number] = before.versions[each.number]
    if not versions:
        raise NotFound(f"No version of {name} can be read.", fix="See: adapters verify --all")
    after = Adapter(
        versions=MappingProxyType(dict(sorted(versions.items()))),
        aliases=MappingProxyType(found.aliases),
        phase=registry.experiment(name),
        standings=MappingProxyType(found.standings),
    )
    return before if before == after else after
