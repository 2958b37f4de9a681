"""What a trained adapter is held to: the base as it was, in the same memory."""

from __future__ import annotations

from typing import Any

COPY = "ref"
"""What TRL calls the copy of an adapter that it is given."""


def use_base_as_reference(model: Any) -> None:
    """Have TRL turn the adapter off where it needs the reference, not keep a copy of it.

    An adapter that does nothing yet (B = 0) is its own reference when it is off. One that begins
    with something, as PiSSA's, keeps the copy: with it off, the base would lack what it took.
    """
    if COPY not in getattr(model, "peft_config", {}):
        return
    copies = [value for name, value in model.named_parameters() if f".{COPY}." in name]
    outputs = [value for name, value in model.named_parameters() if f"lora_B.{COPY}." in name]
    if copies and outputs and not any(value.any() for value in outputs):
        model.delete_adapter(COPY)
