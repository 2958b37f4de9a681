"""What a sweep may try: a recipe file in which some values are ranges, in Optuna's own words.

    learning_rate: {low: 1e-5, high: 1e-3, log: true}
    r: {choices: [8, 16, 32]}
    max_steps: {low: 100, high: 400, step: 100}

Everything else in it is fixed. All that a range may give is checked before the first trial.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.errors import UsageError, nearest
from train.recipe import ROW_KEYS, Recipe, as_key, chosen, keys, read_yaml

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

_ALIKE = frozenset({*ROW_KEYS, "method", "seed", "save_steps", "report_to"})
"""What all trials share, or their results could not be compared."""
_BOUNDS = ("low", "high", "log", "step")
_EXAMPLE = "learning_rate: {low: 1e-5, high: 1e-3, log: true}"


@dataclass(frozen=True, slots=True)
class Space:
    """The recipes that a sweep chooses from."""

    fixed: Mapping[str, Any]
    """What the file and the flags say of the other keys."""
    ranges: Mapping[str, BaseDistribution]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Return a trial's values: those it has, sampled where it has none."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        values: dict[str, Any] = {}
        for name, range_ in self.ranges.items():
            if isinstance(range_, CategoricalDistribution):
                values[name] = trial.suggest_categorical(name, range_.choices)
                continue
            bounds: Any = range_
            ask = trial.suggest_int if isinstance(range_, IntDistribution) else trial.suggest_float
            values[name] = ask(name, bounds.low, bounds.high, step=bounds.step, log=bounds.log)
        return values

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of one trial.

        Raises:
            UsageError: see `Recipe`.
        """
        return Recipe(**chosen({}, {**self.fixed, **values}, ""))

    def first(self) -> Recipe:
        """Return a recipe that stands for all: of each range its first value."""
        return next(self.ends())

    def ends(self) -> Iterator[Recipe]:
        """Yield recipes in which each range is at each of its ends, or at each of its choices.

        Raises:
            UsageError: see `Recipe`.
        """
        first = {name: _ends(range_)[0] for name, range_ in self.ranges.items()}
        for name, range_ in self.ranges.items():
            for value in _ends(range_):
                yield self.recipe({**first, name: value})


def read_space(path: Path, flags: Mapping[str, Any]) -> Space:
    """Return a recipe file's ranges and what is fixed; flags win over both.

    Raises:
        UsageError: the file cannot be read or has no range, a key or a range cannot be meant, or
            something in a range is not a value that the key takes.
    """
    content = read_yaml(path)
    ranged = {k: v for k, v in content.items() if isinstance(v, dict) and k not in flags}
    plain = {k: v for k, v in content.items() if k not in ranged}
    plain = {k: v for k, v in plain.items() if k not in flags}
    if not ranged:
        raise UsageError(f"{path} holds no range.", fix=f"Write one, e.g. {_EXAMPLE}.")
    ranges = {name: _range(name, range_, str(path)) for name, range_ in ranged.items()}
    space = Space(chosen(plain, flags, str(path)), ranges)
    try:
        list(space.ends())
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", fix=error.fix) from error
    return space


def _range(name: str, content: Mapping[str, Any], where: str) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if name not in keys():
        as_key(name, content, where)  # says which is nearest
    if name in _ALIKE:
        raise UsageError(
            f"{where}: {name} cannot be a range; trials are compared on the same rows, by the same "
            "method and seed.",
            fix="Give it one value.",
        )
    known = ("choices",) if "choices" in content else _BOUNDS
    for word in content:
        if word not in known:
            hint = nearest(str(word), known) or f"It takes {', '.join(known)}."
            raise UsageError(f"{where}: {name} has no {word!r}.", fix=hint)
    if "choices" in content:
        return CategoricalDistribution(_choices(name, content["choices"], where))
    number = _number(name)
    if number is None or not {"low", "high"} <= content.keys():
        raise UsageError(
            f"{where}: {name} is {dict(content)}.",
            fix=f"Write {name}: {{choices: [...]}}." if number is None else "Write low and high.",
        )
    log = content.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"{where}: {name}: log is {log!r}.", fix="Write log: true.")
    numbers = {
        word: as_key(name, content[word], where)
        for word in ("low", "high", "step")
        if content.get(word) is not None
    }
    distribution = IntDistribution if number is int else FloatDistribution
    try:
        return distribution(**numbers, log=log)
    except ValueError as error:
        raise UsageError(f"{where}: {name}: {error}", fix=f"Write e.g. {_EXAMPLE}.") from error


def _choices(name: str, choices: Any, where: str) -> list[Any]:
    if not isinstance(choices, list) or not choices:
        raise UsageError(f"{where}: {name}: choices is {choices!r}.", fix="Write choices: [8, 16].")
    read = [as_key(name, choice, where) for choice in choices]
    if name == "target_modules":  # as flags have it; Optuna's choices are no lists
        read = [value if isinstance(value, str) else ",".join(value) for value in read]
    if any(isinstance(value, tuple) for value in read):
        raise UsageError(f"{where}: {name} cannot be a range.", fix="Give it one value.")
    return read


def _number(name: str) -> type | None:
    """Say whether a key is a float or an int; None for what is neither."""
    kind = keys()[name][0]
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next((number for number in (float, int) if number in options), None)


def _ends(range_: BaseDistribution) -> list[Any]:
    """Return what a range may give, as far as a recipe tells: its ends, or each choice."""
    bounds: Any = range_
    return list(bounds.choices) if hasattr(bounds, "choices") else [bounds.low, bounds.high]
