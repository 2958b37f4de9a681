"""What an experiment may be: its arms, and its name where nobody chose one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
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


def free_name(taken: Sequence[str]) -> str:
    """Return the first of `ab-1`, `ab-2` … whose journal is not taken."""
    return next(name for n in count(1) if experiment_journal(name := f"ab-{n}") not in taken)
