"""Several rows in one sequence, none of which sees another.

Best-fit decreasing, by `trl.pack_dataset`: no row is cut. Positions begin anew with each row, from
which transformers' masks and flash attention tell the rows apart. Not every architecture asks
them, so that is proven on the base itself before anything is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import pack_dataset

from adapters.errors import Rejected

_TOLERANCE = {torch.float32: 0.02}
_HALF_TOLERANCE = 0.3
"""Nats by which a token's loss may differ, as kernels do; a row that sees another moves by more."""
_PROVEN_TOKENS = 128


def pack(rows: Dataset, max_length: int) -> tuple[Dataset, Sequence[list[int]]]:
    """Return sequences of up to `max_length` tokens, and of each its tokens' rows (by index).

    Sequences have `input_ids`, `labels` (tokens,) and `seq_lengths` (rows,).
    """
    numbered = rows.map(
        lambda row, index: {"row": [index] * len(row["input_ids"])}, with_indices=True
    )
    packed = pack_dataset(numbered, max_length, "bfd")
    return packed.remove_columns("row"), packed["row"]


@torch.no_grad()
def prove(model: PreTrainedModel, rows: Dataset) -> None:
    """Show that a row's logits are the same behind another row as alone.

    Raises:
        Rejected: they are not; this base's attention, or its state, runs on from row to row.
    """
    first, second = (
        torch.tensor([row["input_ids"][:_PROVEN_TOKENS]], device=model.device)
        for row in (rows[0], rows[min(1, len(rows) - 1)])
    )
    model.eval()
    alone = _losses(model, second, torch.arange(second.shape[1], device=model.device))
    positions = [torch.arange(each.shape[1], device=model.device) for each in (first, second)]
    both = _losses(model, torch.cat([first, second], dim=1), torch.cat(positions))
    off = (both[-len(alone) :] - alone).abs().max().item() if len(alone) else 0.0
    if not off <= _TOLERANCE.get(model.dtype, _HALF_TOLERANCE):
        raise Rejected(
            f"In {model.config.model_type} packed rows see each other: a token's loss moves by "
            f"{off:.2g}.",
            fix="Leave --packing out.",
        )


def _losses(model: PreTrainedModel, ids: Any, positions: Any) -> torch.Tensor:
    """Return the loss of each token but the first, (tokens - 1,), in nats."""
    logits = model(input_ids=ids, position_ids=positions[None], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")
