"""What LoRA takes of a step on a CPU: vLLM's operations beside ours, one core, without an engine.

    python -m loadtests.lora_step

Every linear layer of a base of the tiny one's shape, and its head, for which no adapter has
weights; adapters of rank 16 in 64 slots of rank 64, drawn evenly for each token. In processor time,
so that a busy machine matters little.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from types import SimpleNamespace
from typing import Any

from adapters.render import table

_SLOTS, _ROOM, _RANK = 64, 64, 16
_LAYERS, _VOCABULARY = 5, 2048
_HIDDEN, _INNER, _KEYS = 192, 512, 64
_STEPS = ((32, 1), (32, 64), (64, 1), (64, 4), (64, 16), (64, 64), (400, 1))
"""Tokens, and how many adapters they are for: decoding, and a prompt."""


def main() -> None:
    """Time a step of each kind both ways; print a row each."""
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import torch
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from serve.engines.cpu_lora import GroupedPunica

    torch.set_num_threads(1)
    layers = _layers()
    rows = []
    for tokens, adapters in _STEPS:
        stock, ours = (
            _step_ms(kind, layers, tokens, adapters, repeats)
            for kind, repeats in ((PunicaWrapperCPU, 5), (GroupedPunica, 25))
        )
        rows.append([tokens, adapters, f"{stock:.1f}", f"{ours:.1f}", f"{stock / ours:.1f}"])
    print(table(["tokens", "adapters", "vLLM's ms", "ours ms", "times as fast"], rows))


def _layers() -> list[tuple[Any, ...]]:
    """Return A, B and the sizes of the slices of every layer that an adapter has weights for."""
    import torch

    def stacked(rows: int, columns: int, used: tuple[slice, slice]) -> Any:
        made = torch.zeros(_SLOTS, 1, rows, columns)
        made[:, 0, used[0], used[1]] = torch.randn_like(made[:, 0, used[0], used[1]])
        return made

    everything, rank = slice(None), slice(_RANK)
    shapes = [
        (_HIDDEN, (_HIDDEN, _KEYS, _KEYS)),
        (_HIDDEN, (_HIDDEN,)),
        (_HIDDEN, (_INNER, _INNER)),
        (_INNER, (_HIDDEN,)),
    ]
    return [
        (
            tuple(stacked(_ROOM, inputs, (rank, everything)) for _ in sizes),
            tuple(stacked(size, _ROOM, (everything, rank)) for size in sizes),
            sizes,
        )
        for inputs, sizes in shapes * _LAYERS
    ]


def _step_ms(kind: Any, layers: list[Any], tokens: int, adapters: int, repeats: int) -> float:
    import torch

    chance = random.Random(0)
    numbers = tuple(chance.randint(1, adapters) for _ in range(tokens))
    mapping = SimpleNamespace(index_mapping=numbers, prompt_mapping=numbers, is_prefill=True)
    punica = kind(tokens, tokens, "cpu")
    for slot in range(_SLOTS if hasattr(punica, "refilled") else 0):
        punica.refilled(slot, _RANK)
    inputs = {size: torch.randn(tokens, size) for size in (_HIDDEN, _INNER)}
    nothing = torch.zeros(_SLOTS, 1, _ROOM, _HIDDEN), torch.zeros(_SLOTS, 1, _VOCABULARY, _ROOM)
    took = []
    with torch.inference_mode():
        for _ in range(repeats):
            began = time.thread_time()
            punica.update_metadata(mapping, list(range(1, _SLOTS + 1)), _SLOTS, _VOCABULARY)
            for a, b, sizes in layers:
                y = torch.zeros(tokens, sum(sizes))
                punica.add_lora_linear(y, inputs[a[0].shape[-1]], a, b, 1.0, sizes)
            logits = torch.zeros(tokens, _VOCABULARY)
            punica.add_lora_logits(logits, inputs[_HIDDEN], *nothing, 1.0)
            took.append(time.thread_time() - began)
    return 1e3 * statistics.median(took)


if __name__ == "__main__":
    main()
