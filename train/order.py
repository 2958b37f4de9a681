"""In which order rows are learnt: by the seed and the epoch alone.

transformers draws the order from the process's own random state, which a run that was stopped in
its second epoch does not find again; here it does. And a step's rows can be named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler


class Order(Sampler[int]):
    """A sampler whose indices depend on the seed and the epoch alone."""

    def __init__(self, sampler: Sampler[int], seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._epoch = 0
        self._drawn: tuple[int, list[int]] = (-1, [])

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch begins; accelerate does."""
        self._epoch = epoch

    def indices(self) -> Sequence[int]:
        """Return this epoch's indices of rows, in order."""
        if self._drawn[0] != self._epoch:
            seed = (self._seed << 16) + self._epoch
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                generator = getattr(self._sampler, "generator", None)
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(seed)
                self._drawn = (self._epoch, list(self._sampler))
        return self._drawn[1]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices())

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]  # all of transformers' have one


def fix_order(trainer: Trainer, seed: int) -> StepRows:
    """Have a trainer take its rows by an `Order`; return what names the rows of its steps."""
    draw, rows = trainer._get_train_sampler, StepRows(trainer.args)

    def draw_in_order(*given: Any) -> Any:
        sampler = draw(*given)
        if sampler is None or hasattr(sampler, "set_epoch"):
            return sampler  # of a stream, or one that keeps to seed and epoch already
        if isinstance(sampler, LengthGroupedSampler):  # what is learnt in one step, by all
            sampler.batch_size *= trainer.args.world_size
        rows.order = Order(sampler, seed)
        return rows.order

    trainer._get_train_sampler = draw_in_order
    return rows


class StepRows:
    """Which rows a step learns from, over all processes."""

    def __init__(self, args: Any) -> None:
        self._a_step: int = (
            args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
        self.order: Order | None = None

    def of(self, step: int) -> list[int]:
        """Return the indices of a step (from 1) of the epoch under way; none where unknown."""
        if self.order is None:
            return []
        indices = self.order.indices()
        first = (step - 1) % math.ceil(len(indices) / self._a_step) * self._a_step
        return list(dict.fromkeys(indices[first : first + self._a_step]))
