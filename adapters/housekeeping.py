"""Keeping house: what is damaged, what is not served any more, what may go for good.

Nothing is taken from under somebody: a version that an alias, a running experiment or a running
server holds is not deleted, and each of them is named. Every verb leaves its line in the log.
What garbage is, is `adapters.retention`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from adapters.errors import Conflict, InvalidAdapter, NotFound, RegistryUnavailable, UsageError
from adapters.journals import LOG, entry_line
from adapters.labels import LABELS, Labels
from adapters.leases import leases
from adapters.registry import Registry
from adapters.standing import PROTECTION, STANDING
from adapters.types import LogEntry, Ref, Version, check_alias


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading a version again found."""

    version: str
    """Its ref, e.g. `support@v3`."""
    damage: str
    """What is not as it was published; empty where all is."""
    quarantined: bool
    """Whether it is now."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who needs a version, and how to make them let go."""

    who: str
    fix: str


class Housekeeping(Registry):
    """The registry with its keeper's verbs."""

    def examine(self, ref: str | None = None, *, quarantine: bool = False) -> list[Verdict]:
        """Read every byte of a version, or of all versions, again and say how each stands.

        `quarantine`: from now on what is damaged is neither chosen nor served. Only a line in a
        journal says so, the files stay where they are for whoever restores them. A quarantined
        version that verifies is released, asked for or not.

        Raises:
            InvalidName, NotFound, UsageError: as `resolve`.
        """
        found = []
        for name, number in self._meant(ref):
            try:
                damage = self._damage(name, number)
            except NotFound:
                if ref is not None:
                    raise
                continue  # deleted meanwhile
            standing = self.standings(name).get(number)
            quarantined = standing is not None and standing.state == "quarantined"
            if damage and quarantine and not quarantined:
                self._rule(name, STANDING, "quarantine", version=number, reason=damage)
                quarantined = True
            elif quarantined and not damage:
                self._rule(name, STANDING, "release", version=number)
                quarantined = False
            found.append(Verdict(f"{name}@v{number}", damage, quarantined))
        return found

    def retire(self, ref: str, *, reason: str = "") -> Version:
        """Serve a version to no new request from now on; it stays, and can come back.

        Running requests end as they began. Retiring again changes nothing but the reason.

        Raises:
            InvalidName, NotFound: no such version.
            UsageError: `ref` names no version by number or digest.
            Conflict: an alias points at it, a running experiment uses it or a prompt-only version
                stands on it; the message names each, the fix says how to let go.
        """
        name, number = self._exactly(ref)
        with self._backend.writing(name):
            version = self._backend.open(name, number)
            _refuse(version.ref, self._users(name, number))
            self._withdraw(name, number, reason)
        return version

    def restore(self, ref: str, *, reason: str = "") -> Version:
        """Undo a retirement; restoring what is not retired changes nothing.

        Raises:
            InvalidName, NotFound, UsageError: as `retire`.
            NotFound, Rejected: what a prompt-only version stands on was deleted or retired.
        """
        name, number = self._exactly(ref)
        version = self._backend.open(name, number)
        if number in self.standings(name):
            self._check_ground(version.ref, version.manifest)
            self._rule(name, STANDING, "restore", version=number, reason=reason)
        return version

    def label(
        self,
        ref: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        notes: str | None = None,
    ) -> Labels:
        """Change the tags or the notes of a version; what was published stays as it is.

        `notes`: None leaves them. Returns what stands now; a call that changes nothing is not
        written down.

        Raises:
            InvalidName, NotFound: no such version.
            UsageError: `ref` names no version by number or digest, or a tag is empty.
            Conflict: where there are no locks, somebody else changes labels at this moment.
        """
        name, number = self._exactly(ref)
        if not all(tag.strip() for tag in add):
            raise UsageError("A tag cannot be empty.", fix="Write e.g. --add lang=de.")
        with self._backend.writing(name):
            lines = len(self._backend.read(name, LABELS))
            before = self.labels(self._backend.open(name, number))
            kept = [tag for tag in before.tags if tag not in remove]
            tags = tuple(dict.fromkeys([*kept, *add]))
            after = Labels(tags, before.notes if notes is None else notes)
            if after != before:
                entry = self._entry("label", version=number, tags=list(tags), notes=after.notes)
                self._backend.append(name, LABELS, entry_line(entry), expect=lines)
                self._backend.append(name, LOG, entry_line(entry))
        return after

    def delete(self, ref: str, *, reason: str = "") -> LogEntry:
        """Delete a version for good. A tombstone stays; its number is never used again.

        Atomic: at every instant, also after a kill, it is there as a whole or deleted. One whose
        manifest cannot be read can be deleted, too. Returns what the tombstone says.

        Raises:
            InvalidName, NotFound, UsageError: as `retire`.
            Conflict: an alias, a running experiment, a prompt-only version that stands on it or a
                running server holds it; the message names each, the fix says how to let go.
        """
        name, number = self._exactly(ref)
        with self._backend.writing(name):
            holders = [*self._users(name, number), *self._servers(name, number)]
            _refuse(f"{name}@v{number}", holders)
            buried = self._bury(name, number, reason)
        with suppress(RegistryUnavailable):  # it is deleted; the next gc frees its bytes
            self._free(name)
        return buried

    def protect(self, name: str, alias: str) -> None:
        """Have `promote`, `demote` and `rollback` of an alias ask for a word more from now on.

        Raises:
            InvalidName, NotFound: no such adapter or alias.
        """
        if check_alias(alias) not in self.aliases(name):
            raise self._no_alias(name, alias)
        if alias not in self.protected(name):
            self._rule(name, PROTECTION, "protect", alias=alias)

    def unprotect(self, name: str, alias: str) -> None:
        """Undo `protect`; what is not protected stays so.

        Raises:
            InvalidName, NotFound: no such adapter.
        """
        self._numbers(name)
        if check_alias(alias) in self.protected(name):
            self._rule(name, PROTECTION, "unprotect", alias=alias)

    # -- inside -------------------------------------------------------------------------------

    def _meant(self, ref: str | None) -> Iterator[tuple[str, int]]:
        if ref is None:
            for name in self.names():
                yield from ((name, number) for number in self._backend.numbers(name))
        else:
            parsed = Ref.parse(ref)
            yield parsed.name, self.number(parsed)

    def _damage(self, name: str, number: int) -> str:
        try:
            self.verify(Ref(name, number=number))
        except (InvalidAdapter, RegistryUnavailable) as error:
            return error.message
        except OSError as error:
            self._backend.open(name, number)  # deleted meanwhile?
            return f"{error.filename}: {error.strerror}"
        return ""

    def _exactly(self, ref: str) -> tuple[str, int]:
        """Return the name and number of a version that is there, readable or not."""
        parsed = Ref.parse(ref)
        number = self.number(parsed)
        if not parsed.number and not parsed.digest:
            remove = f" To remove the alias: adapters demote {parsed}" if parsed.alias else ""
            raise UsageError(
                f"{ref} may mean another version tomorrow.",
                fix=f"Name the version, e.g. {parsed.name}@v{number}.{remove}",
            )
        if number not in self._backend.numbers(parsed.name):
            self._backend.open(parsed.name, number)  # says whether it ever was
        return parsed.name, number

    def _users(self, name: str, number: int) -> list[Holder]:
        """Return what in the registry itself leads to a version."""
        found = [
            Holder(
                f"{name}@{alias} points at it",
                f"Point it elsewhere: adapters promote {name}@vN {alias}. "
                f"Or remove it: adapters demote {name}@{alias}.",
            )
            for alias, pointed in self.aliases(name).items()
            if pointed == number
        ]
        phase = self.experiment(name)
        if phase and number in phase.versions():
            fix = f"Stop it: adapters ab stop {name}"
            found.append(Holder(f"it is an arm of the experiment {phase.experiment}", fix))
        for ref in self._standing_on(name, number):
            found.append(Holder(f"{ref} stands on it", f"First: adapters retire {ref}"))
        return found

    def _standing_on(self, name: str, number: int) -> list[str]:
        """Return the refs of prompt-only versions that would not be served without this one."""
        if not (adapters := self._above(name)):
            return []
        try:
            ground = self._backend.open(name, number).manifest
        except RegistryUnavailable:  # damaged: nobody can stand on it
            return []
        found = []
        for each in adapters:
            against = self.standings(each)
            for above in self._backend.numbers(each):
                if (standing := against.get(above)) and standing.state == "retired":
                    continue
                with suppress(NotFound, RegistryUnavailable):  # deleted meanwhile, or damaged
                    manifest = self._backend.open(each, above).manifest
                    if (on := manifest.on) and (on.name, on.digest) == (name, ground.digest):
                        found.append(f"{each}@v{above}")
        return found

    def _servers(self, name: str, number: int) -> list[Holder]:
        fix = f"Retire it: adapters retire {name}@v{number}. Servers let go once its requests end."
        return [
            Holder(f"a server ({lease.holder}) has it loaded", fix)
            for lease in leases(self.location)
            if (name, number) in lease.versions
        ]

    def _withdraw(self, name: str, number: int, reason: str) -> None:
        """Retire a version that nothing led to a moment ago, or take that back.

        Under the lock, or where there is none: then what was written meanwhile is seen here, and
        whoever writes it from now on sees the ruling (`Registry._move`).
        """
        before = self.standings(name).get(number)
        self._rule(name, STANDING, "retire", version=number, reason=reason)
        if users := self._users(name, number):
            if before is None:
                self._rule(name, STANDING, "restore", version=number, reason="it is in use")
            _refuse(f"{name}@v{number}", users)

    def _bury(self, name: str, number: int, reason: str) -> LogEntry:
        """Delete a version that nobody holds; its bytes stay for `_free`. Under the lock.

        Raises:
            Conflict: there is no lock, and something came to lead to it meanwhile.
        """
        if not self._backend.exclusive:
            self._withdraw(name, number, reason or "about to be deleted")
        try:
            digest = self._backend.open(name, number).manifest.digest
        except RegistryUnavailable:  # damaged: nobody knows what it was
            digest = None
        entry = self._entry("delete", version=number, digest=digest, reason=reason)
        self._backend.delete(name, number, entry_line(entry))
        self._backend.append(name, LOG, entry_line(entry))
        return entry

    def _free(self, name: str) -> None:
        """Remove the bytes of deleted versions, and what killed writers left.

        A server says what it is about to load, and looks then whether it is deleted
        (`serve.loading.lease`); here it is the other way round. So whoever comes second sees the
        other: either the server does not load it, or its bytes stay until the server lets go.
        """
        held = {version for lease in leases(self.location) for version in lease.versions}
        self._backend.sweep(name, {number for each, number in held if each == name})

    def _rule(
        self,
        name: str,
        journal: str,
        action: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        reason: str = "",
    ) -> None:
        line = entry_line(self._entry(action, version=version, alias=alias, reason=reason))
        self._backend.append(name, journal, line)
        self._backend.append(name, LOG, line)


def _refuse(version: str, holders: list[Holder]) -> None:
    if holders:
        raise Conflict(
            f"{version} is held: {'; '.join(holder.who for holder in holders)}.",
            fix=" ".join(dict.fromkeys(holder.fix for holder in holders)),
        )
