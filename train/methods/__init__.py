"""What is learnt from rows: one file a method, each a TRL trainer set up for adapters.

base.py   the port
sft.py    supervised fine-tuning: the answers themselves
"""

from __future__ import annotations

from importlib import import_module

from train.methods.base import Method, Setup

_FILES = {"sft": "sft"}
"""The file that holds each method's `trainer`."""

__all__ = ["Method", "Setup", "method"]


def method(name: str) -> Method:
    """Return a method of the recipe's by its name; imports its trainer only."""
    found: Method = import_module(f"train.methods.{_FILES[name]}").trainer
    return found
