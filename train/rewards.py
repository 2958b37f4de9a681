"""Rewards: what an answer is worth, by named built-ins or by a function of one's own.

    exact_match          1 if it is the row's answer, but for space at its ends
    regex:PATTERN        1 if the pattern is found in it
    json_schema:FILE     1 if it is JSON that the schema takes
    length:LOW-HIGH      1 if it has so many tokens, its end included; less the further from that
    FILE.py:FUNCTION     what the function says

A function of one's own is called as TRL calls reward functions: `prompts`, `completions` (chats,
both), `completion_ids`, and each column of the rows by its name, with `answer` the row's answer;
it gets those that it names. It returns one number an answer.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import Rejected, UsageError, nearest
from adapters.files import sha256_file
from train.recipe import Recipe, keys

Score = Callable[[str, str | None, int], float]
"""A built-in: what an answer is worth, by its text, the row's own answer, and its tokens."""
_RANGE = re.compile(r"(\d+)-(\d+)")
_TRL_NAMES = {
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_extra",
    "log_metric",
}


@dataclass(frozen=True)
class Reward:
    """One reward function, as TRL calls it."""

    spec: str
    """As the recipe has it."""
    name: str
    """As metrics have it."""
    function: Callable[..., Sequence[Any]]
    file: Path | None = None
    """The file that it depends on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", self.name)  # where TRL looks for it

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        answer: Sequence[str | None] = (),
        columns: Sequence[Mapping[str, Any]] = (),
        **others: Any,
    ) -> list[float]:
        """Return the reward of each completion.

        Raises:
            Rejected: the function failed, or did not return one finite number each; the message
                names it and a prompt.
        """
        given = {
            "prompts": prompts, "completions": completions, "completion_ids": completion_ids,
            "answer": list(answer), **_columns(columns),
            **{name: value for name, value in others.items() if name in _TRL_NAMES},
        }  # fmt: skip
        try:
            rewards = list(self.function(**given))
        except Exception as error:  # whatever somebody's own function raises
            raise self._failed(prompts[0], f"raised {type(error).__name__}: {error}") from error
        if len(rewards) != len(completions):
            said = f"returned {len(rewards)} rewards of {len(completions)} answers"
            raise self._failed(prompts[0], said)
        for prompt, reward in zip(prompts, rewards, strict=True):
            if not isinstance(reward, int | float) or not math.isfinite(reward):
                raise self._failed(prompt, f"returned {reward!r}, not a finite number")
        return [float(reward) for reward in rewards]

    def _failed(self, prompt: Any, said: str) -> Rejected:
        asked = prompt[-1]["content"] if isinstance(prompt, list) else str(prompt)
        return Rejected(
            f"The reward {self.spec} {said}; the prompt: {asked[:80]!r}.",
            fix="Mend the function: it returns one number for each of `completions`.",
        )


def load_rewards(recipe: Recipe) -> list[Reward]:
    """Return a recipe's reward functions; none where its method takes none.

    Raises:
        UsageError: there must be one and is none, or one cannot be had; or as many weights as
            rewards are wanted, and given are more or fewer.
    """
    if recipe.method not in keys()["reward"][1].methods:
        return []
    specs, weights = recipe.reward, recipe.reward_weights
    if not specs:
        raise UsageError(
            f"--method {recipe.method} needs a reward.",
            fix="Use --reward exact_match, or another that `adapters train --help` names.",
        )
    if weights and len(weights) != len(specs):
        raise UsageError(
            f"{len(specs)} rewards have {len(weights)} weights.",
            fix="Give one --reward-weights for each --reward, in their order.",
        )
    named: Counter[str] = Counter()
    rewards = []
    for spec in specs:
        kind, _, argument = spec.partition(":")
        own = kind.endswith(".py")
        name = argument if own else kind
        named[name] += 1
        title = name if named[name] == 1 else f"{name}_{named[name]}"
        if own:
            rewards.append(Reward(spec, title, _from_file(kind, argument), Path(kind)))
            continue
        if kind not in _BUILT_IN:
            hint = nearest(kind, _BUILT_IN) or f"Use {', '.join(_BUILT_IN)} or FILE.py:FUNCTION."
            raise UsageError(f"No reward {spec!r}.", fix=hint)
        file = Path(argument) if kind == "json_schema" else None
        rewards.append(Reward(spec, title, _each(_BUILT_IN[kind](argument)), file))
    return rewards


def sources(recipe: Recipe) -> dict[str, str]:
    """Return the sha256 of each file that a recipe's rewards depend on, for the lineage.

    Raises:
        UsageError: see `load_rewards`.
    """
    files = {reward.file for reward in load_rewards(recipe) if reward.file}
    return {file.name: f"sha256:{sha256_file(file)}" for file in sorted(files)}


def _columns(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return each column of the rows by its name."""
    names = {name: None for row in columns for name in row if name not in _TRL_NAMES}
    return {name: [row.get(name) for row in columns] for name in names}


def _from_file(file: str, name: str) -> Callable[..., Sequence[Any]]:
    """Return a function out of somebody's own Python file, called with what it names."""
    path = Path(file)
    if not name or not path.is_file():
        raise UsageError(f"No reward {file}:{name}.", fix="Write FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's own file does
        raise UsageError(f"{file}: {type(error).__name__}: {error}.", fix="Mend it.") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(
            f"{file} has no function {name!r}.",
            fix=nearest(name, known) or f"It has {', '.join(known) or 'none'}.",
        )
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{file}:{name} is a coroutine.", fix="Write a plain function.")
    taken = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return function  # type: ignore[no-any-return]
    return lambda **given: function(**{k: v for k, v in given.items() if k in taken})


# -- built-ins ------------------------------------------------------------------------------------


def _each(score: Score) -> Callable[..., list[float]]:
    def function(
        completions: list[Any], completion_ids: list[list[int]], answer: list[Any], **_: Any
    ) -> list[float]:
        return [
            score(turns[-1]["content"], wanted, len(ids))
            for turns, wanted, ids in zip(completions, answer, completion_ids, strict=True)
        ]

    return function


def _exact_match(argument: str) -> Score:
    if argument:
        raise UsageError("exact_match takes no argument.", fix="Write --reward exact_match.")

    def score(text: str, answer: str | None, tokens: int) -> float:
        if answer is None:
            raise ValueError("the row has no answer")
        return float(text.strip() == answer.strip())

    return score


def _regex(argument: str) -> Score:
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise UsageError(f"regex:{argument}: {error}.", fix="Write regex:PATTERN.") from error
    return lambda text, answer, tokens: float(pattern.search(text) is not None)


def _json_schema(argument: str) -> Score:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        schema = json.loads(Path(argument).read_text("utf-8"))
        validator_for(schema).check_schema(schema)
    except (OSError, ValueError, AttributeError, SchemaError) as error:
        said = str(error).splitlines()[0]
        raise UsageError(
            f"json_schema:{argument}: {said}.", fix="Name a file that holds a JSON schema."
        ) from error
    validator = validator_for(schema)(schema)

    def score(text: str, answer: str | None, tokens: int) -> float:
        try:
            return float(validator.is_valid(json.loads(text)))
        except (ValueError, RecursionError):
            return 0.0

    return score


def _length(argument: str) -> Score:
    found = _RANGE.fullmatch(argument)
    low, high = (int(found[1]), int(found[2])) if found else (1, 0)
    if not found or low > high or high < 1:
        raise UsageError(f"length:{argument} is no range.", fix="Write length:10-40.")
    return lambda text, answer, tokens: min(
        1.0, tokens / low if low else 1.0, high / max(tokens, 1)
    )


_BUILT_IN: Mapping[str, Callable[[str], Score]] = {
    "exact_match": _exact_match,
    "regex": _regex,
    "json_schema": _json_schema,
    "length": _length,
}
