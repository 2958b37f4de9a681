"""Which versions a person means: filters and order of `adapters list`. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from adapters.errors import UsageError, nearest
from adapters.types import Version

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([A-Za-z0-9_./-]+)\s*(<=|>=|<|>|=)\s*(\S+)\s*")
_KEYS: dict[str, Callable[[Version], float | str]] = {
    "name": lambda version: version.name,
    "version": lambda version: version.number,
    "created": lambda version: version.manifest.created_at,
    "r": lambda version: version.manifest.peft.get("r") or 0,
    "size": lambda version: sum(f.size_bytes for f in version.manifest.files.values()),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A bound on a metric, e.g. `eval_loss<1.2`; versions without the metric do not meet it."""

    metric: str
    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read METRIC<NUMBER, also with <=, >, >= or =.

        Raises:
            UsageError: anything else.
        """
        found = _CONDITION.fullmatch(text)
        try:
            if found:
                return cls(found[1], found[2], float(found[3]))
        except ValueError:
            pass
        raise UsageError(f"{text!r} is no condition.", fix="Write e.g. --metric 'eval_loss<1.2'.")

    def holds(self, version: Version) -> bool:
        """Whether a version meets it."""
        value = version.manifest.metrics.get(self.metric)
        return value is not None and _OPERATORS[self.operator](value, self.bound)


def select(
    versions: Iterable[Version],
    *,
    base: str | None = None,
    tags: Sequence[str] = (),
    tags_of: Callable[[Version], Iterable[str]] = lambda version: version.manifest.tags,
    conditions: Sequence[Condition] = (),
) -> list[Version]:
    """Return the versions of a base (its name or id) that bear every tag and meet every bound.

    `tags_of`: a version's tags as they are now.
    """
    return [
        version
        for version in versions
        if base in (None, version.manifest.base.name, version.manifest.base.id)
        and set(tags) <= set(tags_of(version))
        and all(condition.holds(version) for condition in conditions)
    ]


def order(versions: Iterable[Version], key: str) -> list[Version]:
    """Sort by name, version, created, r, size or a metric; `-KEY` turns it round.

    Versions that lack the metric come last.

    Raises:
        UsageError: no version has such a metric; the nearest key is named.
    """
    listed, word, turned = list(versions), key.removeprefix("-"), key.startswith("-")
    if word in _KEYS:
        return sorted(listed, key=_KEYS[word], reverse=turned)
    known = {metric for version in listed for metric in version.manifest.metrics}
    if listed and word not in known:
        keys = sorted({*_KEYS, *known})
        raise UsageError(
            f"Cannot sort by {word!r}.", fix=nearest(word, keys) or f"Use {', '.join(keys)}."
        )
    have = [version for version in listed if word in version.manifest.metrics]
    lack = [version for version in listed if word not in version.manifest.metrics]
    return sorted(have, key=lambda v: v.manifest.metrics[word], reverse=turned) + lack
