"""An experiment as people write it, in flags, YAML or JSON: read into arms and a design.

arms: {v3: 50, v4: 50}                  or [v3, v4], which share alike
primary: solved:effect=0.03             metrics as `adapters.metrics` has them
secondary: [rating:mean]
guardrails: [error<=5%, latency_ms>800<=5%]
holdout: 5%                             and every other field of `Design`, by its name
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.errors import UsageError, nearest
from adapters.experiments import Arm, Design, check_arms, check_design
from adapters.metrics import Metric, Role, read_number
from adapters.types import BASE_ARM, Ref

METRICS: Mapping[str, Role] = {
    "primary": "primary",
    "secondary": "secondary",
    "guardrails": "guardrail",
}
"""Keys whose values are metrics, and the role that they give."""
CANARY_STEPS = "1%,5%,25%,50%,100%"
CANARY_GUARDRAIL = "error<=5%"
_FIELDS = {field.name: str(field.type) for field in dataclasses.fields(Design)}
KEYS = ("arms", *METRICS, *(name for name in _FIELDS if name != "metrics"))


def read_design(name: str, said: Mapping[str, Any]) -> tuple[tuple[Arm, ...], Design]:
    """Return the arms and the design of an experiment on the adapter `name`.

    Raises:
        UsageError: an unknown key (the nearest is named), a value of the wrong type, or what
            `check_arms` and `check_design` refuse.
        InvalidName: an arm, an alias or a layer that is no name.
    """
    fields: dict[str, Any] = {}
    metrics: list[Metric] = []
    for key, value in said.items():
        if key not in KEYS:
            known = f"The keys are {', '.join(KEYS)}."
            raise UsageError(
                f"An experiment has no {str(key)[:40]!r}.", fix=nearest(str(key), KEYS) or known
            )
        if value is None:
            continue
        if key in METRICS:
            metrics += [Metric.parse(text, METRICS[key]) for text in _texts(key, value)]
        elif key != "arms":
            fields[key] = _field(name, key, value)
    arms = _arms(name, said.get("arms") or ())
    check_arms(arms, alone=fields.get("shadow") is not None)
    design = Design(metrics=tuple(metrics), **fields)
    check_design(design, arms)
    return arms, design


def read_canary(
    name: str, control: int, number: int, said: Mapping[str, Any]
) -> tuple[tuple[Arm, ...], Design]:
    """Return the arms and the design of a canary: a version takes over from another by steps.

    `said`: as for `read_design`, with `steps`; without guardrails one holds errors.

    Raises:
        UsageError: as `read_design`; or both are one version, or the first step leaves no control.
    """
    if number == control:
        raise UsageError(f"v{number} is what it should replace.", fix="Name another version.")
    first = _field(name, "steps", said.get("steps") or CANARY_STEPS)[0]
    if not 0 < first < 1:
        raise UsageError(
            f"A canary that begins with {first:.0%} is none.", fix="Begin smaller: --steps 5%,100%."
        )
    guardrails = said.get("guardrails") or [CANARY_GUARDRAIL]
    arms = {f"v{control}": 1 - first, f"v{number}": first}
    plain = {"policy": "canary", "steps": CANARY_STEPS}
    return read_design(name, {**plain, **said, "guardrails": guardrails, "arms": arms})


def read_file(path: Path) -> dict[str, Any]:
    """Return what a file says of an experiment, as YAML or JSON has it.

    Raises:
        UsageError: it cannot be read, or holds no mapping.
    """
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", fix="Give a YAML file.") from error
    if not isinstance(said, dict):
        raise UsageError(f"{path} holds no keys.", fix="See docs/experiments.md for an example.")
    return said


def read_arm(name: str, text: str, share: object = None) -> tuple[Arm, bool]:
    """Return an arm written `v1` or `v1=50`, and whether a share was said.

    Raises:
        UsageError: it names no version, or its share is none.
    """
    version, equals, said = text.partition("=")
    given = said if equals else share
    weight = 0.0 if given is None else _number(f"the share of {version}", given)
    if version == BASE_ARM:
        return Arm(BASE_ARM, None, weight), given is not None
    number = Ref.parse(f"{name}@{version}").number
    if number is None or version != f"v{number}":
        raise UsageError(f"{text[:80]!r}: an arm is a version or base.", fix="E.g. v1=50, base=50.")
    return Arm(version, number, weight), given is not None


def _arms(name: str, said: object) -> tuple[Arm, ...]:
    if isinstance(said, Mapping):
        found = [read_arm(name, str(arm), share) for arm, share in said.items()]
    else:
        found = [read_arm(name, text) for text in _texts("arms", said)]
    shared = [told for _, told in found]
    if any(shared) and not all(shared):
        raise UsageError("Some arms have a share.", fix="Give each its share, or none of them.")
    if any(shared):
        return tuple(arm for arm, _ in found)
    return tuple(dataclasses.replace(arm, weight=1 / len(found)) for arm, _ in found)


def _field(name: str, key: str, value: Any) -> Any:
    """Return a value as the design's field has it."""
    kind = _FIELDS[key]
    if key == "allow":
        pairs = value if isinstance(value, Mapping) else dict(map(_pair, _texts(key, value)))
        return {str(unit): str(arm) for unit, arm in pairs.items()}
    if key == "shadow":
        return read_arm(name, str(value))[0].version
    if key == "steps":
        return tuple(_number(key, each) for each in _listed(key, value))
    if kind.startswith("tuple"):
        return tuple(_texts(key, value))
    if kind == "bool":
        if not isinstance(value, bool):
            raise UsageError(f"{key} is {value!r:.40}.", fix="Write true or false.")
        return value
    if kind in ("int", "float"):
        number = _number(key, value)
        if kind == "int" and number != int(number):
            raise UsageError(f"{key} is {value!r:.40}.", fix="Write a whole number.")
        return int(number) if kind == "int" else number
    if not isinstance(value, str) or not value:
        raise UsageError(f"{key} is {value!r:.40}.", fix="Write a text.")
    return value.lower() if key == "unit_header" else value


def _pair(text: str) -> tuple[str, str]:
    unit, equals, arm = text.rpartition("=")
    if not equals:
        raise UsageError(f"{text[:80]!r} names no arm.", fix="Write UNIT=ARM, e.g. ann=v4.")
    return unit, arm


def _listed(key: str, value: object) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, Sequence):
        return list(value)
    raise UsageError(f"{key} is {value!r:.40}.", fix="Write a list.")


def _texts(key: str, value: object) -> list[str]:
    found = [value] if isinstance(value, str) else _listed(key, value)
    if not all(isinstance(each, str) for each in found):
        raise UsageError(f"{key} is {value!r:.40}.", fix="Write texts.")
    return found


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UsageError(f"{key} is {value!r:.40}.", fix="Write a number, or a share like 5%.")
    return float(value) if not isinstance(value, str) else read_number(key, value)
