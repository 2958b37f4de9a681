"""What a check says: findings, warnings, and the report that a version keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RANK_CLASSES = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `max_lora_rank` (`vllm.config.lora.MaxLoRARanks`)."""


def rank_class(rank: int) -> int:
    """Return the least of vLLM's values for `max_lora_rank` that holds a rank."""
    return next((known for known in RANK_CLASSES if known >= rank), RANK_CLASSES[-1])


_CONSEQUENCES = {
    "file": "vLLM would read half an adapter, hang, or open what nobody checked",
    "type": "vLLM would refuse it",
    "rank": "vLLM would refuse it or scale it wrongly",
    "scale": "vLLM would refuse it or scale it wrongly",
    "field": "vLLM would refuse it, or ignore the field and serve other answers than PEFT",
    "pattern": "vLLM would run it as a regular expression in its engine loop",
    "key": "vLLM would refuse it, or drop the tensor and serve the base's answers in its place",
    "pair": "vLLM would refuse it or fail in the middle of a request",
    "shape": "vLLM would refuse it, or scale it otherwise than it was trained",
    "base": "vLLM would refuse it, or drop or cut the tensor and serve wrong answers",
    "experts": "vLLM would refuse it, or serve other answers than PEFT",
    "copy": "vLLM would leave it out and PEFT load it over the base's: two different answers",
    "missing": "vLLM would serve the base's weights there without a word",
    "target": "PEFT would leave it out and vLLM would serve it: two different answers",
    "value": "vLLM would serve garbage, to requests for other adapters too",
    "zero": "vLLM would serve the base's answers under the adapter's name",
    "serving": "the server could not apply it, and requests would be answered without it",
    "canary": "the server could not compare its answers with those where it was published",
    "identity": "vLLM would serve it on weights that it was not trained on",
    "revision": "its weights may not be those that it was trained on",
    "tokenizer": "the server uses the base's, so prompts may differ from those in training",
    "classifier": "`adapters serve` and any vLLM that generates refuse it",
    "unchecked": "vLLM drops modules that it does not know and serves the base's weights there",
}


WARNINGS = frozenset({"revision", "tokenizer", "unchecked", "classifier"})
"""The checks that do not keep an adapter from being served."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason not to serve an adapter, or one to look twice."""

    check: str
    where: str
    """A file, a field of adapter_config.json, a module or a tensor's name."""
    message: str
    fix: str

    @property
    def consequence(self) -> str:
        """What would come of it in vLLM."""
        return _CONSEQUENCES[self.check]

    def as_json(self) -> dict[str, str]:
        """Return it with its consequence."""
        return {**asdict(self), "consequence": self.consequence}


@dataclass(frozen=True, slots=True)
class Report:
    """What lint found; empty findings mean servable as far as these checks see."""

    peft: Mapping[str, Any]
    """r (the largest rank), lora_alpha, target_modules, use_rslora, task_type, num_parameters,
    dtype."""
    modules: tuple[str, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...] = ()
    """What does not keep it from being served."""
    matched: int | None = None
    """How many modules the base has, in the adapter's sizes; None where the base's are unknown."""

    @property
    def max_lora_rank(self) -> int | None:
        """The smallest `max_lora_rank` of a vLLM that takes it; None where none does."""
        rank = self.peft.get("r")
        if not isinstance(rank, int):
            return None
        return next((size for size in RANK_CLASSES if size >= rank), None)

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest keeps of this report."""
        return {
            "passed": not self.findings,
            "modules": len(self.modules),
            "matched": self.matched,
            "max_lora_rank": self.max_lora_rank,
            "findings": [finding.as_json() for finding in self.findings],
            "warnings": [warning.as_json() for warning in self.warnings],
        }
