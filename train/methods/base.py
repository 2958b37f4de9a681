"""The port: a method turns a prepared run into one of TRL's trainers, ready to be started.

It knows its trainer's arguments and the form of its rows (`train.recipe.PURPOSES`, `train.tokens`).
It does not load the base, choose what learns, write checkpoints, stop or publish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from datasets import Dataset
from transformers import PreTrainedModel, Trainer

from train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a trainer is made of."""

    recipe: Recipe
    model: PreTrainedModel
    """The base with what learns of it (see `train.tuners`)."""
    tokenizer: Any
    train: Dataset
    held_out: Dataset | None
    arguments: Mapping[str, Any]
    """transformers.TrainingArguments' that all methods share."""


class Method(Protocol):
    """Make the trainer of a run.

    Rows are counted, cut and rendered by the base's template already; a method that tokenises
    them once more must come to the same lengths (see `train.methods.rows`). All that learns is in
    float32, and stays so. Where the method holds what learns to a reference, that is the base
    with the adapter turned off, never a second copy (see `train.methods.reference`).

    Raises:
        UsageError: the recipe does not fit the method.
        Rejected: the rows do not.
    """

    def __call__(self, setup: Setup) -> Trainer:
        """Return it, not yet started."""
