"""The registry's verbs and their invariants, over any `RegistryBackend`.

A version that lint refuses is never published; a published one never changes; an alias moves
only as a whole and remembers where it was. Knows nothing of files (`adapters.backends`),
training or serving.
"""

from __future__ import annotations

import getpass
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters import __version__
from adapters.errors import (
    Conflict,
    InvalidAdapter,
    NotFound,
    RegistryUnavailable,
    Rejected,
    UsageError,
)
from adapters.experiments import check_arms, free_name
from adapters.files import differences, digest, version_files
from adapters.journals import (
    LOG,
    aliases_journal,
    entry_line,
    experiment_journal,
    move_line,
    phase_line,
    promotions,
    undoing,
)
from adapters.lint import Report, check_adapter, read_base_config
from adapters.reading import Reader
from adapters.types import (
    LATEST,
    PRODUCTION,
    AliasMove,
    Arm,
    BaseModel,
    File,
    LogEntry,
    Manifest,
    Phase,
    Ref,
    Version,
    check_alias,
    check_name,
)


class Registry(Reader):
    """Versions, aliases and experiments of many adapters, read and written."""

    # -- publishing ---------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Find out, before hours of work, whether `publish` could write.

        Raises:
            RegistryUnavailable: it could not; the message names the folder and the fix.
        """
        self._backend.check_writable()

    def publish(
        self,
        name: str,
        folder: Path,
        *,
        base: BaseModel,
        base_path: Path | None = None,
        recipe: Mapping[str, Any] | None = None,
        dataset: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        code: Mapping[str, str] | None = None,
        parents: Sequence[str] = (),
        serving: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        notes: str = "",
    ) -> Version:
        """Make a PEFT folder the adapter's next version. Atomic; `folder` is left as it is.

        `base_path`: the base's folder, where it is on this machine; modules and shapes are then
        checked against its config.json.

        Raises:
            InvalidName: `name` is not an adapter name.
            InvalidAdapter: lint refuses it; the message names the findings.
            Rejected: `base_path` holds no readable config.json.
            UsageError: metrics, recipe and the like that JSON cannot hold (NaN, a path …).
            RegistryUnavailable: the registry cannot be written.
            Then nothing was published, or all of it and only its line in the log is missing.
        """
        check_name(name)
        paths = version_files(folder)
        report = check_adapter(
            folder,
            read_base_config(base_path) if base_path else None,
            base_id=base.id,
            base_path=base_path,
        )
        _refuse_findings(report, str(folder))
        draft = Manifest(
            name=name,
            version=0,
            digest="",
            publish_id=secrets.token_hex(16),
            created_at=_now(),
            files={},
            base=base,
            peft=report.peft,
            recipe=recipe or {},
            dataset=dataset or {},
            metrics=metrics or {},
            code={"lora-switchyard": __version__, **(code or {})},
            parents=tuple(parents),
            lint=report.as_json(),
            serving=serving or {},
            tags=tuple(tags),
            notes=notes,
        )

        def manifest(number: int, files: Mapping[str, File]) -> Manifest:
            return replace(draft, version=number, digest=digest(files), files=files)

        version = self._backend.publish(name, folder, paths, manifest)
        self._note(name, "publish", version=version.number, digest=version.manifest.digest)
        return version

    def receive(self, version: Version) -> Version:
        """Publish a version of another registry here, with all that it says of itself, once.

        One of its digest that is here is the same version, and is returned; so of several who
        bring it at once, one does. It keeps its number where that is above every number used here;
        else it gets the next. Atomic, as `publish` is; its files are hashed and linted again first.

        Raises:
            InvalidAdapter: its files are not what was published, or lint refuses them.
            RegistryUnavailable: this registry cannot be written.
        """
        folder, theirs = version.path, version.manifest
        if wrong := differences(folder, theirs.files):
            raise InvalidAdapter(
                f"{version.ref} is not what was published: {'; '.join(wrong)}.",
                fix="Restore its files there first: adapters verify",
            )
        paths = version_files(folder)
        _refuse_findings(check_adapter(folder), version.ref)
        draft = replace(theirs, publish_id=secrets.token_hex(16))

        def manifest(number: int, files: Mapping[str, File]) -> Manifest:
            with self._backend.writing(version.name):  # what was written up to now counts
                for here in self._backend.numbers(version.name):
                    with suppress(NotFound, RegistryUnavailable):  # deleted, or damaged
                        held = self._backend.open(version.name, here)
                        if held.manifest.digest == theirs.digest:
                            raise _AlreadyHere(held)
            return replace(draft, version=number, digest=digest(files), files=files)

        try:
            received = self._backend.publish(
                version.name, folder, paths, manifest, at_least=version.number
            )
        except _AlreadyHere as found:
            return found.version
        as_theirs = version.engine_name
        self._note(version.name, "publish", version=received.number, received=as_theirs)
        return received

    # -- aliases ------------------------------------------------------------------------------

    def promote(
        self,
        ref: str | Ref,
        alias: str = PRODUCTION,
        *,
        if_current: int | None = None,
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
        confirmed: bool = False,
    ) -> AliasMove:
        """Point an alias at a version, in one step; readers see the old one or the new one.

        `if_current`: only if the alias points at that version number now (compare-and-set).
        `confirmed`: the word more that a protected alias asks for.

        Raises:
            InvalidName, NotFound: as `resolve`.
            Rejected: the version is retired or quarantined or its lint failed, or the alias is
                protected and this is not `confirmed`.
            Conflict: the alias does not point at `if_current`, or moves at this moment.
        """
        version = self.resolve(ref)
        check_alias(alias)
        with self._backend.writing(version.name):
            self._check_may_stand(version.name, version.number)
            self._check_confirmed(version.name, alias, version.number, confirmed)
            moves = self.history(version.name, alias)
            current = moves[-1].to_version if moves else None
            _check_current(f"{version.name}@{alias}", current, if_current)
            move = AliasMove(
                from_version=current,
                to_version=version.number,
                action="promote",
                actor=_actor(),
                time=_now(),
                reason=reason,
                evidence=dict(evidence or {}),
            )
            return self._move(version.name, alias, move, len(moves))

    def demote(
        self,
        name: str,
        alias: str,
        *,
        if_current: int | None = None,
        reason: str = "",
        confirmed: bool = False,
    ) -> AliasMove:
        """Remove an alias, in one step: it points nowhere until it is promoted to again.

        Its history stays, and `rollback` brings it back. `if_current`: as in `promote`.
        `confirmed`: the word more that a protected alias asks for, and `production`, without
        which the bare name means the latest version.

        Raises:
            InvalidName, NotFound: no such adapter or alias.
            Rejected: it asks for that word, and this is not `confirmed`.
            Conflict: the alias does not point at `if_current`, or moves at this moment.
        """
        self._numbers(name)
        with self._backend.writing(name):
            moves = self.history(name, alias)
            current = moves[-1].to_version if moves else None
            if current is None:
                raise self._no_alias(name, alias)
            _check_current(f"{name}@{alias}", current, if_current)
            self._check_confirmed(name, alias, None, confirmed)
            move = AliasMove(
                from_version=current,
                to_version=None,
                action="demote",
                actor=_actor(),
                time=_now(),
                reason=reason,
            )
            return self._move(name, alias, move, len(moves))

    def rollback(
        self,
        name: str,
        alias: str = PRODUCTION,
        *,
        steps: int = 1,
        reason: str = "",
        confirmed: bool = False,
    ) -> AliasMove:
        """Point an alias at what it pointed at before, `steps` promotions or demotions ago.

        Rolling back twice goes back twice: a rollback undoes a promotion or a demotion, never a
        rollback. `confirmed`: as in `promote` and `demote`.

        Raises:
            InvalidName, NotFound: no such adapter or alias, nothing that far back, or what is
                there was deleted.
            Rejected: what is there was retired or quarantined meanwhile, or the alias is
                protected and this is not `confirmed`.
            UsageError: `steps` below 1.
        """
        if steps < 1:
            raise UsageError(f"Cannot roll back {steps} steps.", fix="Use --steps 1 or more.")
        self._numbers(name)
        with self._backend.writing(name):
            moves = self.history(name, alias)
            if not moves:
                raise self._no_alias(name, alias)
            stack = promotions(moves)
            if len(stack) <= steps:
                raise NotFound(
                    f"{name}@{alias} cannot go back {steps} step(s), only {len(stack) - 1}.",
                    fix=f"Promote a version instead: adapters promote {name}@vN {alias}",
                )
            target = stack[-1 - steps]
            if target is not None:
                self._check_may_stand(name, target)
            self._check_confirmed(name, alias, target, confirmed)
            move = AliasMove(
                from_version=stack[-1],
                to_version=target,
                action="rollback",
                actor=_actor(),
                time=_now(),
                reason=reason,
                steps=steps,
            )
            return self._move(name, alias, move, len(moves))

    # -- experiments --------------------------------------------------------------------------

    def start_experiment(
        self, name: str, arms: Sequence[Arm], *, experiment: str | None = None, reason: str = ""
    ) -> Phase:
        """Split the requests for `name` between arms from now on.

        `experiment`: its name; None numbers it (`ab-1`, `ab-2`, …).

        Raises:
            InvalidName, NotFound: no such adapter, or an arm's version does not exist.
            UsageError: fewer than two arms, two of one name, a name that is none, or a weight
                that is not positive.
            Rejected: an arm's version is retired or quarantined, or its lint failed.
            Conflict: an experiment runs on it, or one of that name ran before.
        """
        check_arms(arms)
        self._numbers(name)
        with self._backend.writing(name):
            for arm in arms:
                if arm.version is not None:
                    self._check_may_stand(name, arm.version)
            if running := self.experiment(name):
                raise Conflict(
                    f"{running.experiment} is running on {name}.",
                    fix=f"Stop it first: adapters ab stop {name}",
                )
            taken = self._backend.journals(name, "experiments")
            chosen = check_name(experiment) if experiment else free_name(taken)
            if experiment_journal(chosen) in taken:
                raise Conflict(f"{name} had an experiment {chosen}.", fix="Choose another name.")
            phase = Phase(
                chosen, 1, "running", secrets.token_hex(8), tuple(arms), _now(), _actor(), reason
            )
            self._record(name, phase)
            return phase

    def stop_experiment(self, name: str, *, reason: str = "") -> Phase:
        """End the running experiment: requests for `name` go to production again.

        Raises:
            InvalidName, NotFound: no such adapter, or no experiment runs on it.
        """
        self._numbers(name)
        with self._backend.writing(name):
            running = self.experiment(name)
            if running is None:
                raise NotFound(
                    f"No experiment is running on {name}.",
                    fix=f"Start one: adapters ab start {name} --arm v1=50 --arm v2=50",
                )
            phase = replace(
                running,
                number=running.number + 1,
                status="stopped",
                time=_now(),
                actor=_actor(),
                reason=reason,
            )
            self._record(name, phase)
            return phase

    # -- inside -------------------------------------------------------------------------------

    def _check_may_stand(self, name: str, number: int) -> None:
        """Refuse a version that no alias may come to point at. Under the lock."""
        version = self._backend.open(name, number)  # deleted meanwhile? Then it says so
        if standing := self.standings(name).get(number):
            undo = "retire --undo" if standing.state == "retired" else "verify"
            refusal = standing.refusal(name, number)
            raise Rejected(refusal.message, fix=f"First: adapters {undo} {version.ref}")
        if version.manifest.lint.get("passed") is False:
            raise Rejected(
                f"{version.ref} did not pass lint, so vLLM would refuse it or serve it wrongly.",
                fix=f"See what was found: adapters show {version.ref} --json",
            )

    def _check_confirmed(self, name: str, alias: str, to: int | None, confirmed: bool) -> None:
        """Refuse a move that asks for a word more."""
        if confirmed:
            return
        if alias in self.protected(name):
            raise Rejected(
                f"{name}@{alias} is protected.", fix="Add --yes to move it all the same."
            )
        if alias == PRODUCTION and to is None:
            latest = self._latest(name, self._numbers(name))
            raise Rejected(
                f"Without {name}@{alias}, {name} means {name}@{LATEST}, now v{latest}.",
                fix="Add --yes to remove it all the same.",
            )

    def _move(self, name: str, alias: str, move: AliasMove, known: int) -> AliasMove:
        # `known`: what was decided upon so many moves is not done upon more. No lock says so
        # where a backend has none. There a retirement or deletion may have come between, too: it
        # says so first and looks for aliases then, here it is the other way round, so that
        # whoever comes second sees the other.
        journal = aliases_journal(alias)
        self._backend.append(name, journal, move_line(move), expect=known)
        try:
            if move.to_version is not None:
                self._check_may_stand(name, move.to_version)
        except (NotFound, Rejected):
            if move.from_version != move.to_version:
                with suppress(Conflict):  # then another move was made upon this one
                    self._backend.append(
                        name, journal, move_line(undoing(move, _now())), expect=known + 1
                    )
            raise
        self._note(name, move.action, version=move.to_version, alias=alias, reason=move.reason)
        return move

    def _record(self, name: str, phase: Phase) -> None:
        journal = experiment_journal(phase.experiment)
        self._backend.append(name, journal, phase_line(phase), expect=phase.number - 1)
        try:  # as in `_move`
            for arm in phase.arms if phase.status == "running" else ():
                if arm.version is not None:
                    self._check_may_stand(name, arm.version)
        except (NotFound, Rejected):
            stopped = replace(phase, number=phase.number + 1, status="stopped", time=_now())
            self._backend.append(name, journal, phase_line(stopped), expect=phase.number)
            raise
        action = f"experiment {phase.status}"
        self._note(name, action, experiment=phase.experiment, reason=phase.reason)

    def _note(
        self,
        name: str,
        action: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        **detail: Any,
    ) -> None:
        entry = self._entry(action, version=version, alias=alias, **detail)
        self._backend.append(name, LOG, entry_line(entry))

    def _entry(
        self,
        action: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        **detail: Any,
    ) -> LogEntry:
        return LogEntry(action, _now(), _actor(), version, alias, detail)


class _AlreadyHere(Exception):
    """Ends a publication before it is made: its version is here."""

    def __init__(self, version: Version) -> None:
        super().__init__(version.ref)
        self.version = version


def _refuse_findings(report: Report, what: str) -> None:
    if report.findings:
        shown = report.findings[:5]
        listed = " ".join(f"{f.where}: {f.message}." for f in shown)
        more = len(report.findings) - len(shown)
        also = f" And {more} more." if more else ""
        fixes = " ".join(dict.fromkeys(f.fix for f in shown))
        raise InvalidAdapter(f"{what} cannot be served. {listed}{also}", fix=fixes)


def _check_current(alias: str, current: int | None, expected: int | None) -> None:
    if expected is not None and current != expected:
        at = f"at v{current}" if current else "nowhere"
        raise Conflict(
            f"{alias} points {at}, not at v{expected}.",
            fix=f"Look at it first: adapters log {alias.partition('@')[0]}",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _actor() -> str:
    """Who does it: $ADAPTERS_ACTOR, else the login name."""
    try:
        return os.environ.get("ADAPTERS_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a passwd entry
        return f"uid {os.getuid()}"
