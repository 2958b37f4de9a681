"""Aliases move: as a whole, by one line of a journal that remembers where they were."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from adapters.errors import Conflict, NotFound, Rejected, UsageError
from adapters.journals import aliases_journal, move_line, promotions, undoing
from adapters.types import LATEST, PRODUCTION, AliasMove, Ref, check_alias
from adapters.verbs.writer import Writer, actor, now


class Aliases(Writer):
    """The verbs that move aliases."""

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
                actor=actor(),
                time=now(),
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
                actor=actor(),
                time=now(),
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
                actor=actor(),
                time=now(),
                reason=reason,
                steps=steps,
            )
            return self._move(name, alias, move, len(moves))

    # -- inside -------------------------------------------------------------------------------

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
                        name, journal, move_line(undoing(move, now())), expect=known + 1
                    )
            raise
        self._note(name, move.action, version=move.to_version, alias=alias, reason=move.reason)
        return move


def _check_current(alias: str, current: int | None, expected: int | None) -> None:
    if expected is not None and current != expected:
        at = f"at v{current}" if current else "nowhere"
        raise Conflict(
            f"{alias} points {at}, not at v{expected}.",
            fix=f"Look at it first: adapters log {alias.partition('@')[0]}",
        )
