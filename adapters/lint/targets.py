"""Which modules PEFT adapts by an adapter_config.json.

vLLM serves every tensor in the file, whatever the configuration says; PEFT takes only those of
modules that it targets. Source: `peft.tuners.tuners_utils.check_target_module_exists` (0.21).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_FIRST_INDEX = re.compile(r"[^.]+(?:\.[^.]+)*?\.([0-9]+)\.")
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")


def suffixes(module: str) -> Iterator[str]:
    """Yield a module's path and its ends that begin after a dot, the longest first.

    >>> list(suffixes("layers.0.q_proj"))
    ['layers.0.q_proj', '0.q_proj', 'q_proj']
    """
    while True:
        yield module
        _, dot, module = module.partition(".")
        if not dot:
            return


class Targets:
    """The modules that one configuration means."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._named = _names(config.get("target_modules"))
        self._excluded = _names(config.get("exclude_modules") or [])
        self._layers = config.get("layers_to_transform")
        patterns = config.get("layers_pattern") or []
        self._patterns = [patterns] if isinstance(patterns, str) else patterns

    def __call__(self, module: str) -> bool | None:
        """Say whether PEFT adapts a module; None where only a regular expression would tell.

        The expressions are a stranger's and may never end, so they are not run.
        """
        if self._named is None or self._excluded is None:
            return None
        if not self._excluded.isdisjoint(suffixes(module)):
            return False
        if self._named.isdisjoint(suffixes(module)):
            return False
        if self._layers is None or self._layers == []:
            return True
        found = self._layer(module)
        if found is None or not isinstance(self._layers, int | list):
            return None
        return found in ([self._layers] if isinstance(self._layers, int) else self._layers)

    def _layer(self, module: str) -> int | None:
        """Return the number that PEFT takes for the layer's: the first, or that after a pattern."""
        if not self._patterns:
            found = _FIRST_INDEX.match(module)
            return int(found[1]) if found else None
        for pattern in self._patterns:
            if not isinstance(pattern, str) or not _PLAIN.fullmatch(pattern):
                return None
            if found := re.match(rf"(?:^|.*?\.){pattern}\.([0-9]+)\.", module):
                return int(found[1])
        return None


def _names(names: object) -> frozenset[str] | None:
    """Return a list of names as a set; None for an expression, or for none at all."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return frozenset(names)
