"""What the lines of a registry's journals mean: moves of an alias, phases, log entries.

A line is plain JSON, the rest of the code sees types. Knows nothing of where lines are kept
(`adapters.backends`) nor who may write them when (`adapters.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Literal, TypeVar

from adapters.backends import Line
from adapters.errors import RegistryUnavailable
from adapters.experiments import Arm, Design, Phase
from adapters.metrics import Metric
from adapters.types import AliasMove, LogEntry

_T = TypeVar("_T")

LOG = "log"
ABOVE = "above"
"""The journal of the adapters whose prompt-only versions stand on this one's versions."""


def aliases_journal(alias: str) -> str:
    """Name the journal of an alias."""
    return f"aliases/{alias}"


def experiment_journal(experiment: str) -> str:
    """Name the journal of an experiment."""
    return f"experiments/{experiment}"


def move_line(move: AliasMove) -> Line:
    """Return the line of `aliases/<alias>.jsonl` that says `move`."""
    fields = asdict(move)
    return {"from": fields.pop("from_version"), "to": fields.pop("to_version"), **fields}


def read_move(line: Line) -> AliasMove:
    """Read what `move_line` wrote.

    Raises:
        RegistryUnavailable: damaged, or written by a later release.
    """
    return _understood(line, _as_move)


def phase_line(phase: Phase) -> Line:
    """Return the line of `experiments/<experiment>.jsonl` that says `phase`."""
    return asdict(phase)


def read_phase(line: Line) -> Phase:
    """Read what `phase_line` wrote.

    Raises:
        RegistryUnavailable: damaged, or written by a later release.
    """
    return _understood(line, _as_phase)


def entry_line(entry: LogEntry) -> Line:
    """Return the line of `log.jsonl` that says `entry`."""
    return asdict(entry)


def read_entry(line: Line) -> LogEntry:
    """Read what `entry_line` wrote.

    Raises:
        RegistryUnavailable: damaged, or written by a later release.
    """
    return _understood(line, _as_entry)


def promotions(moves: Sequence[AliasMove]) -> list[int | None]:
    """Return where an alias was put and not rolled back from, oldest first; None is nowhere.

    The last one is where it points; a rollback of n steps takes the last n away. Promoting what
    an alias already points at adds nothing to go back to.
    """
    stack: list[int | None] = []
    for move in moves:
        if move.action == "rollback":
            del stack[len(stack) - move.steps :]
        elif not stack or stack[-1] != move.to_version:
            stack.append(move.to_version)
    return stack


def undoing(move: AliasMove, time: str) -> AliasMove:
    """Return the move that takes an alias back to where it was before `move`."""
    action: Literal["promote", "rollback", "demote"] = "rollback"
    if move.action == "rollback":
        action = "demote" if move.from_version is None else "promote"
    return replace(
        move,
        from_version=move.to_version,
        to_version=move.from_version,
        action=action,
        steps=1 if action == "rollback" else 0,
        time=time,
        reason="its version was retired or deleted at that moment",
    )


def _as_move(line: Line) -> AliasMove:
    fields = dict(line)
    before, after = _number(fields.pop("from")), _number(fields.pop("to"))
    return AliasMove(from_version=before, to_version=after, **fields)


def _as_phase(line: Line) -> Phase:
    arms = tuple(Arm(**arm) for arm in line["arms"])
    design = _as_design(line.get("design", {}))
    for version in (*(arm.version for arm in arms), design.shadow):
        _number(version)
    return Phase(**{**line, "arms": arms, "design": design})


def _as_design(fields: Line) -> Design:
    metrics = tuple(Metric(**metric) for metric in fields.get("metrics", ()))
    lists = {key: tuple(fields[key]) for key in ("steps", "exclude") if key in fields}
    return Design(**{**fields, **lists, "metrics": metrics})


def _as_entry(line: Line) -> LogEntry:
    entry = LogEntry(**line)
    _number(entry.version)
    if not isinstance(entry.detail, dict):
        raise TypeError(f"{entry.detail!r:.40} is no detail")
    return entry


def _number(found: object) -> int | None:
    """Return what a line says is a version: nothing else may become part of a path."""
    if found is None or (type(found) is int and found > 0):
        return found
    raise TypeError(f"{found!r:.40} is no version")


def _understood(line: Line, read: Callable[[Line], _T]) -> _T:
    try:
        return read(line)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RegistryUnavailable(
            f"A line of the registry cannot be understood: {str(line)[:120]}: {error}.",
            fix="A later release wrote it, or it is damaged: update, or restore the file.",
        ) from error
