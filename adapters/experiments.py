"""What an experiment may be: its arms, and its name where nobody chose one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

from adapters.errors import UsageError
from adapters.journals import experiment_journal
from adapters.types import BASE_ARM, Arm, check_name


def check_arms(arms: Sequence[Arm]) -> None:
    """Refuse arms that are none, or no two.

    Raises:
        InvalidName: an arm's name is none.
        UsageError: fewer than two arms, two of one name, no version, or a share not above 0.
    """
    if len(arms) < 2:
        raise UsageError("An experiment needs two arms.", fix="Repeat --arm, e.g. --arm v1=50.")
    if len({arm.name for arm in arms}) < len(arms):
        raise UsageError("Two arms have one name.", fix="Name each side once.")
    for arm in arms:
        check_name(arm.name)  # it becomes a header's value and a metric's label
        if not 0 < arm.weight < float("inf"):
            raise UsageError(f"Arm {arm.name} has weight {arm.weight}.", fix="Use a share above 0.")
        if (arm.name == BASE_ARM) != (arm.version is None):
            raise UsageError(f"Arm {arm.name} names no version.", fix="Write v1, v2 … or base.")


def ramped(arms: Sequence[Arm], shares: Mapping[str, float]) -> tuple[Arm, ...]:
    """Return the same arms, in the same order, with other shares.

    The order must stay: it is why units move one way only (`serve.routes.assignment`).

    Raises:
        UsageError: not exactly these arms are named, or a share is not above 0.
    """
    if shares.keys() != {arm.name for arm in arms}:
        raise UsageError(
            f"The arms are {', '.join(arm.name for arm in arms)}.",
            fix="Give each its share: " + " ".join(f"--arm {arm.name}=50" for arm in arms),
        )
    changed = tuple(replace(arm, weight=shares[arm.name]) for arm in arms)
    check_arms(changed)
    return changed


def free_name(taken: Sequence[str]) -> str:
    """Return the first of `ab-1`, `ab-2` … whose journal is not taken."""
    return next(name for n in count(1) if experiment_journal(name := f"ab-{n}") not in taken)
