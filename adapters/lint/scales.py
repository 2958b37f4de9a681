"""The rank and the scale of each module, by the rule that PEFT and vLLM share.

A key of `rank_pattern` or `alpha_pattern` is a regular expression; the first one that matches a
module's path, or its end after a dot, counts. Sources: `peft.utils.other.get_pattern_key`,
`vllm.lora.peft_helper.PEFTHelper.get_rank_and_scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adapters.lint.expressions import Clock


class Scales:
    """Those of one configuration."""

    def __init__(self, config: Mapping[str, Any], clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or Clock()
        self._known: dict[tuple[str, str], Any] = {}

    def rank(self, module: str) -> Any:
        """Return the rank as the configuration has it, sound or not.

        Raises:
            InvalidAdapter: the expressions take too long.
        """
        return self._of("rank_pattern", "r", module)

    def alpha(self, module: str) -> Any:
        """Return lora_alpha as the configuration has it, sound or not.

        Raises:
            InvalidAdapter: the expressions take too long.
        """
        return self._of("alpha_pattern", "lora_alpha", module)

    def factor(self, module: str, rank: int) -> float:
        """Return what B·A is multiplied by: α/r, of rsLoRA α/√r.

        Raises:
            InvalidAdapter: the expressions take too long.
        """
        root = math.sqrt(rank) if self._config.get("use_rslora") else rank
        return float(self.alpha(module)) / root

    def _of(self, pattern: str, default: str, module: str) -> Any:
        if (pattern, module) not in self._known:
            keys: Mapping[str, Any] = self._config.get(pattern) or {}
            found = (
                value
                for key, value in keys.items()
                if self._clock.match(rf"(.*\.)?({key})$", module)
            )
            self._known[pattern, module] = next(found, self._config.get(default))
        return self._known[pattern, module]
