"""Switchyard: train, version and serve many LoRA adapters of one base, side by side."""

__version__ = "0.1.0"
