"""How many LoRA slots, and how large: from the registry, traffic, the base's shape, memory. Pure.

vLLM's own defaults (one slot, rank 16) thrash as soon as two adapters are asked for: every
switch copies weights, and a batch never mixes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.lint import rank_class

_GIB = 1 << 30
_FEWEST_SLOTS = 4
_MANY_SLOTS = 64
"""One for each version up to here; beyond, for those that are likely to be asked for at once."""
_MOST_SLOTS = 256
_SPARE_SLOTS = 4
"""For versions published while the server runs."""
_ROOMY_RANK, _PLAIN_RANK = 64, 16
"""Head-room for versions trained later, where slots that large are cheap; else vLLM's default."""
_LEAST_BUDGET = 1 * _GIB
_MOST_RESIDENT = 1024


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the person decided; None leaves it to us."""

    max_loras: int | None = None
    max_cpu_loras: int | None = None
    max_lora_rank: int | None = None

    @classmethod
    def read(cls, flags: Sequence[str]) -> Overrides:
        """Find the three flags among vLLM's, in any spelling vLLM takes; ignores the rest."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        for name in ("max_loras", "max_cpu_loras", "max_lora_rank"):
            parser.add_argument(f"--{name.replace('_', '-')}", f"--{name}", type=int)
        try:
            known, _ = parser.parse_known_args(list(flags))
        except argparse.ArgumentError:
            return cls()  # vLLM's own parser says what is wrong with it
        return cls(**vars(known))


@dataclass(frozen=True, slots=True)
class Slots:
    """What vLLM is started with, and why."""

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    reason: str

    def flags(self) -> list[str]:
        """Return the three settings as vLLM's flags."""
        return [
            f"--max-loras={self.max_loras}",
            f"--max-cpu-loras={self.max_cpu_loras}",
            f"--max-lora-rank={self.max_lora_rank}",
        ]


def slot_bytes(config: Mapping[str, Any], rank: int, element_bytes: int) -> int:
    """Return what one slot takes: A and B of every linear layer at full rank.

    `config`: the base's config.json. An estimate for dense Llama-like bases; experts count as
    often as there are experts, unknown keys as zero.
    """
    text = config.get("text_config") or config
    hidden = text.get("hidden_size") or 0
    heads = text.get("num_attention_heads") or 1
    head = text.get("head_dim") or hidden // heads
    query, key = heads * head, (text.get("num_key_value_heads") or heads) * head
    inner = text.get("moe_intermediate_size") or text.get("intermediate_size") or 4 * hidden
    experts = text.get("num_experts") or text.get("num_local_experts") or 1
    attention = 2 * (hidden + query) + 2 * (hidden + key)
    perceptron = 3 * (hidden + inner) * experts
    layers = (text.get("num_hidden_layers") or 0) * (attention + perceptron)
    ends = 2 * (hidden + (text.get("vocab_size") or 0))  # embedding and head have slots too
    return int(rank * (layers + ends) * element_bytes)


def size(
    ranks: Sequence[int],
    config: Mapping[str, Any],
    *,
    base_bytes: int,
    free_bytes: int,
    element_bytes: int,
    named: int = 0,
    together: int = 0,
    overrides: Overrides | None = None,
) -> Slots:
    """Choose the slots.

    Args:
        ranks: of the versions that this base can serve now; may be empty.
        named: to how many of them a name, an alias or an experiment leads.
        together: how many were in use at once when this was served before.
        base_bytes: the base's weights; a quarter of that, at least 1 GiB, may go to slots.
        free_bytes: host memory; a quarter of that may hold adapters out of their slots.
        element_bytes: of the type the base is served in.
    """
    given = overrides or Overrides()
    budget = max(_LEAST_BUDGET, base_bytes // 4)
    largest = max(ranks, default=0)
    roomy = _FEWEST_SLOTS * slot_bytes(config, _ROOMY_RANK, element_bytes) <= budget
    floor = _ROOMY_RANK if roomy else _PLAIN_RANK
    rank = given.max_lora_rank or rank_class(max(largest, floor))
    each = max(1, slot_bytes(config, rank, element_bytes))
    likely = max(_MANY_SLOTS, named + _SPARE_SLOTS, together + _SPARE_SLOTS)
    wanted = min(max(_FEWEST_SLOTS, min(len(ranks) + _SPARE_SLOTS, likely)), _MOST_SLOTS)
    loras = given.max_loras or max(1, min(wanted, budget // each))
    if given.max_cpu_loras and not given.max_loras:
        loras = min(loras, given.max_cpu_loras)
    resident = max(loras, min(len(ranks) + 16, free_bytes // 4 // each, _MOST_RESIDENT))
    return Slots(
        max_loras=loras,
        max_cpu_loras=given.max_cpu_loras or resident,
        max_lora_rank=rank,
        reason=f"{len(ranks)} version(s) for this base, {named} of them behind a name or an alias, "
        f"{together or 'none'} known to have been in use at once, largest rank "
        f"{largest or 'none'}; about {each / 1e6:.1f} MB a slot of a budget of "
        f"{budget / _GIB:.1f} GiB",
    )
