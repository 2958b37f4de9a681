"""Replay against forgetting: rows of another dataset among the own, chosen by the seed.

A tenth of them is held out and measures what is forgotten (`train.forgetting`).
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from adapters.errors import UsageError
from train.rows import duplicates
from train.sift import Sifted

HELD_OUT = 0.1
"""Share of the replay rows that measure and are not trained on."""
MOST_HELD_OUT = 256


@dataclass(frozen=True, slots=True)
class Replay:
    """Another dataset, and which share of all training rows comes of it."""

    dataset: str
    share: float
    """0 to 0.9; 0 measures forgetting and mixes in nothing."""

    @classmethod
    def parse(cls, text: str) -> Replay:
        """Read `general.jsonl=0.1`.

        Raises:
            UsageError: it is not of that form.
        """
        dataset, _, share = text.rpartition("=")
        try:
            found = cls(dataset, float(share))
        except ValueError:
            found = cls("", -1)
        if not dataset or not 0 <= found.share <= 0.9:
            raise UsageError(
                f"--replay takes a dataset and a share, not {text!r}.",
                fix="For instance: --replay general.jsonl=0.1 (0 to 0.9; 0 measures only)",
            )
        return found

    def rows(self, own: int) -> int:
        """Return how many rows go with `own` rows, so that they are `share` of all."""
        return round(self.share * own / (1 - self.share))


def choose(rows: Iterable[Sifted], wanted: int, seed: int) -> tuple[list[Sifted], list[Sifted]]:
    """Return the rows to train on, `wanted` of them where there are so many, and those held out.

    The seed and the rows themselves decide, not their order; no more are kept in memory.
    """
    train: list[Any] = []
    held_out: list[Any] = []
    for number, row in enumerate(rows):
        chosen, most = (train, wanted) if row.side == "train" else (held_out, MOST_HELD_OUT)
        drawn = hashlib.sha256(f"{seed}:".encode() + duplicates.row_key(row.row)).digest()
        entry = (-int.from_bytes(drawn[:8]), number, row)
        if len(chosen) < most:
            heapq.heappush(chosen, entry)
        elif most:
            heapq.heappushpop(chosen, entry)
    return ([row for *_, row in sorted(train, reverse=True)],
            [row for *_, row in sorted(held_out, reverse=True)])  # fmt: skip
