"""What is learnt from rows: one file a method, each a TRL trainer set up for adapters.

base.py       the port
sft.py        supervised fine-tuning: the answers themselves
dpo.py        the better of two answers
kto.py        answers that are desirable, and that are not
online.py     grpo and rloo: answers of its own, by the rewards they get (`train.rewards`)
reward.py     a reward model
metrics.py    what of a trainer's numbers a version keeps
reference.py  what an adapter is held to: the base, with the adapter off
rows.py       the proof that TRL's rows are those that were counted
"""

from __future__ import annotations

from importlib import import_module

from datasets.utils.logging import disable_progress_bar
from transformers import Trainer

from adapters.errors import UsageError
from train.methods.base import Method, Setup

_FILES = {
    "sft": "sft", "dpo": "dpo", "kto": "kto", "grpo": "online", "rloo": "online",
    "reward": "reward",
}  # fmt: skip
"""The file that holds each method's `trainer`."""

__all__ = ["Method", "Setup", "method"]


def method(name: str) -> Method:
    """Return a method of the recipe's by its name; imports its trainer only."""
    disable_progress_bar()
    make: Method = import_module(f"train.methods.{_FILES[name]}").trainer

    def checked(setup: Setup) -> Trainer:
        try:
            return make(setup)
        except (ValueError, NotImplementedError) as error:  # TRL's word on keys that do not agree
            raise UsageError(f"--method {name}: {error}", fix="Change the recipe.") from error

    return checked
