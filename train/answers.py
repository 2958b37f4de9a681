"""Answers that were drawn and are not learnt to their end yet: checkpoints keep them.

GRPO and RLOO learn `num_iterations` steps from the same answers. TRL holds those in memory alone:
a run that goes on amid them would draw others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback


class Answers(TrainerCallback):  # type: ignore[misc]
    """Write them into each checkpoint, every process its own; comes before what makes it whole."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the answers, and how many batches were learnt: TRL counts from the drawing."""
        kept = {"step": self._trainer._step, "answers": self._trainer._buffered_inputs}
        torch.save(kept, self._file(Path(args.output_dir) / f"checkpoint-{state.global_step}"))

    def restore(self, checkpoint: Path) -> None:
        """Have the trainer go on amid the answers that a checkpoint holds."""
        device = self._trainer.args.device.type  # of several CPU processes torch knows no cpu:0
        kept = torch.load(self._file(checkpoint), map_location=device, weights_only=True)
        self._trainer._step, self._trainer._buffered_inputs = kept["step"], kept["answers"]

    def _file(self, checkpoint: Path) -> Path:
        return checkpoint / f"answers_{self._trainer.args.process_index}.pt"
