"""Which modules PEFT adapts by an adapter_config.json.

vLLM serves every tensor in the file, whatever the configuration says; PEFT takes only those of
modules that it targets. Source: `peft.tuners.tuners_utils.check_target_module_exists` (0.21).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.lint.expressions import Clock, problem
from adapters.lint.findings import Finding
from adapters.projections import EMBEDDINGS

ALL_LINEAR = "all-linear"
_INDEX = re.compile(r".*?\.[^.]*\.(?P<idx>[0-9]+)\.")


def check_targets(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Find fields that PEFT would not load, and expressions that cannot be run."""
    named, layers = config.get("target_modules"), config.get("layers_to_transform")
    if not named:
        yield Finding("field", "target_modules", "vLLM wants them named", "Save with PEFT.")
    for field in ("target_modules", "exclude_modules", "layers_pattern"):
        value = config.get(field) or []
        if isinstance(value, str):
            expressions = [value]
        elif isinstance(value, list) and all(isinstance(name, str) for name in value):
            expressions = value if field == "layers_pattern" else []
        else:
            yield Finding("field", field, "not a list of names, nor a name", "Save with PEFT.")
            continue
        for said in filter(None, map(problem, map(_AROUND[field].format, expressions))):
            yield Finding("pattern", field, said, "Name modules plainly, in a list.")
    indices = layers if isinstance(layers, list) else [layers]
    if layers is not None and not all(type(index) is int for index in indices):
        yield Finding("field", "layers_to_transform", "not layers' numbers", "Save with PEFT.")
    for field in ("layers_to_transform", "layers_pattern"):
        if isinstance(named, str) and config.get(field) is not None:
            yield Finding(
                "field", field, "PEFT takes it with a list of target_modules only", "Drop it."
            )
    if config.get("layers_pattern") and layers is None:
        yield Finding(
            "field", "layers_pattern", "PEFT takes it with layers_to_transform only", "Drop it."
        )


_AROUND = {
    "target_modules": "{}",
    "exclude_modules": "{}",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
}


class Targets:
    """The modules that one configuration means, in which `check_targets` found nothing."""

    def __init__(self, config: Mapping[str, Any], clock: Clock) -> None:
        self._named = _names(config.get("target_modules"))
        self._excluded = _names(config.get("exclude_modules"))
        layers = config.get("layers_to_transform")
        self._layers = layers if isinstance(layers, list | None) else [layers]
        patterns = config.get("layers_pattern") or []
        self._patterns = [patterns] if isinstance(patterns, str) else patterns
        self._clock = clock

    def __call__(self, module: str) -> bool:
        """Say whether PEFT adapts a module that LoRA can change.

        Raises:
            InvalidAdapter: the expressions take too long.
        """
        if self._among(self._excluded, module):
            return False
        if isinstance(self._named, str) and self._named.lower() == ALL_LINEAR:
            return module.rpartition(".")[2] not in EMBEDDINGS
        if isinstance(self._named, frozenset) and module in self._named:
            return True  # whatever its layer
        return self._among(self._named, module) and self._in_layers(module)

    def _among(self, names: frozenset[str] | str, module: str) -> bool:
        if isinstance(names, str):
            return self._clock.match(names, module, whole=True) is not None
        return not names.isdisjoint(_ends(module))

    def _in_layers(self, module: str) -> bool:
        if not self._layers:
            return True
        if self._patterns:
            tried = (
                self._clock.match(_AROUND["layers_pattern"].format(pattern), module)
                for pattern in self._patterns
            )
            found = next(filter(None, tried), None)
        else:
            found = _INDEX.match(module)
        return found is not None and int(found["idx"]) in self._layers


def _names(names: Any) -> frozenset[str] | str:
    """Return an expression as it is, and a list as a set."""
    return names if isinstance(names, str) and names else frozenset(names or ())


def _ends(module: str) -> Iterator[str]:
    """Yield a module's path and its ends that begin after a dot, the longest first.

    >>> list(_ends("layers.0.q_proj"))
    ['layers.0.q_proj', '0.q_proj', 'q_proj']
    """
    while True:
        yield module
        _, dot, module = module.partition(".")
        if not dot:
            return
