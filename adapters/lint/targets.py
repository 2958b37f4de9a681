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
    if not named and not config.get("target_parameters"):
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
    if config.get("target_parameters") and not _plain_parameters(config):
        yield Finding(
            "field",
            "target_parameters",
            "vLLM serves LoRA on weights of linear modules, all of one rank and scale",
            "Train without target_parameters.",
        )
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


def _plain_parameters(config: Mapping[str, Any]) -> bool:
    """Say whether LoRA on these parameters is LoRA on modules under another name."""
    named = config["target_parameters"]
    return (
        isinstance(named, list)
        and all(isinstance(name, str) and name.endswith(".weight") for name in named)
        and not any(_last(name.removesuffix(".weight")) in EMBEDDINGS for name in named)
        and not config.get("rank_pattern")  # which name parameters to PEFT, modules to vLLM
        and not config.get("alpha_pattern")
    )


_AROUND = {
    "target_modules": "{}",
    "exclude_modules": "{}",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
}


class Targets:
    """The modules that one configuration means, in which `check_targets` found nothing.

    `ensure_weight_tying` is read as if the base's embeddings were tied; on others PEFT ignores it.
    """

    def __init__(self, config: Mapping[str, Any], clock: Clock) -> None:
        self._named = _names(config.get("target_modules"))
        self._excluded = _names(config.get("exclude_modules"))
        parameters = config.get("target_parameters") or ()
        self._parameters = frozenset(name.removesuffix(".weight") for name in parameters)
        layers = config.get("layers_to_transform")
        self._layers = layers if isinstance(layers, list | None) else [layers]
        patterns = config.get("layers_pattern") or []
        self._patterns = [patterns] if isinstance(patterns, str) else patterns
        self._clock = clock
        self._tied = bool(config.get("ensure_weight_tying")) and self._names_an_embedding()

    def __call__(self, module: str) -> bool:
        """Say whether PEFT adapts a module that LoRA can change.

        Raises:
            InvalidAdapter: the expressions take too long.
        """
        if self._tied and _last(module) in EMBEDDINGS:
            return True
        if self._among(self._parameters, module):
            return True
        if self._among(self._excluded, module):
            return False
        if isinstance(self._named, str) and self._named.lower() == ALL_LINEAR:
            return _last(module) not in EMBEDDINGS
        if isinstance(self._named, frozenset) and module in self._named:
            return True  # whatever its layer
        return self._among(self._named, module) and self._in_layers(module)

    def _among(self, names: frozenset[str] | str, module: str) -> bool:
        if isinstance(names, str):
            return self._clock.match(names, module, whole=True) is not None
        return not names.isdisjoint(_ends(module))

    def _names_an_embedding(self) -> bool:
        if isinstance(self._named, str):
            return any(self._among(self._named, name) for name in EMBEDDINGS)
        return any(_last(name) in EMBEDDINGS for name in self._named)

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


def _last(path: str) -> str:
    return path.rpartition(".")[2]


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
