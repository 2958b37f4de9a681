"""vLLM's LoRA operations on a CPU, without copies: an adapter's weights are read where they lie.

vLLM's own copy the weights of a whole adapter for every token of a step, at the rank that slots
have room for, and give tokens of the base those of the last slot: -1, which stands for none, is an
index there. Here tokens are taken together by slot, multiplied once, at the rank the adapter has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

Pair = tuple[torch.Tensor, torch.Tensor]
"""What a slot multiplies by: A as [in, rank], B as [rank, out]; views of vLLM's own."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Which tokens of a step go to which slot; those of the base go to none."""

    tokens: int
    rows: Any
    """The tokens that have a slot, by slot: an index tensor, or a slice where they are in a row."""
    slots: list[int]
    sizes: list[int]
    """How many of `rows` each slot has."""

    @classmethod
    def of(cls, slots: torch.Tensor) -> Groups:
        """Group by each token's slot, -1 for none; `slots`: [tokens], int64."""
        ordered, rows = slots.sort(stable=True)
        base = int((slots < 0).sum())
        found, sizes = torch.unique_consecutive(ordered[base:], return_counts=True)
        adapted: Any = rows[base:]
        first = int(adapted[0]) if len(adapted) else 0
        if torch.equal(adapted, torch.arange(first, first + len(adapted))):
            adapted = slice(first, first + len(adapted))
        return cls(len(slots), adapted, found.tolist(), sizes.tolist())

    def parts(self, inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return each slot's inputs; `inputs`: [tokens, …]."""
        if len(inputs) != self.tokens:
            raise ValueError(f"{len(inputs)} rows for {self.tokens} tokens")
        return torch.split(inputs[self.rows], self.sizes)


@dataclass(slots=True)
class Pairs:
    """The pairs of one layer that are in use, by slot."""

    a: torch.Tensor
    """[slots, 1, room, in]"""
    b: torch.Tensor
    """[slots, 1, out, room]"""
    known: dict[int, Pair] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Lay B out rank by rank, in place: what an adapter's rank leaves empty is never read."""
        with torch.inference_mode(False):  # vLLM goes on filling it, outside of a step
            self.b.data = self.b.data.transpose(-1, -2).contiguous().transpose(-1, -2)

    def of(self, slot: int, rank: int | None) -> Pair:
        """Return a slot's pair up to the adapter's rank; none is left where it has nothing here."""
        if slot not in self.known:
            a, b = self.a[slot, 0, :rank], self.b[slot, 0]
            rank = len(a) if a.any() else 0
            self.known[slot] = a[:rank].t(), b[:, :rank].t()
        return self.known[slot]


class GroupedPunica(PunicaWrapperCPU):  # type: ignore[misc]
    """In place of vLLM's `PunicaWrapperCPU`; the same results within rounding."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tokens = self._samples = Groups(0, slice(0), [], [])
        self._pairs: dict[int, Pairs] = {}
        self._ranks: dict[int, int] = {}

    def update_metadata(self, *args: Any, **options: Any) -> None:
        super().update_metadata(*args, **options)
        self._tokens = Groups.of(self.token_lora_indices)
        self._samples = Groups.of(self.sampler_indices)

    def refilled(self, slot: int, rank: int) -> None:
        """Forget what a slot held: it holds another adapter now, of at most this rank."""
        self._ranks[slot] = rank
        for pairs in self._pairs.values():
            pairs.known.pop(slot, None)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        self._add(self._tokens, y, x, lora_a_stacked, lora_b_stacked, scale, output_slices)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        size = min(y.shape[-1], lora_b_stacked.shape[-2])  # the base may pad, and the adapter
        self._add(self._samples, y, x, (lora_a_stacked,), (lora_b_stacked,), scale, (size,))

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        self._apply_expand(y, x, lora_b_stacked, 0, lora_b_stacked.shape[-2], add_inputs)

    def _apply_shrink(
        self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float
    ) -> None:
        y = y.view(-1, y.shape[-1])
        if self._tokens.slots:
            y[self._tokens.rows, : w_t_all.shape[-2]] = scale * self._product(x, w_t_all, y.dtype)

    def _apply_expand(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        rows, columns = self._tokens.rows, slice(y_offset, y_offset + y_slice_size)
        if self._tokens.slots:
            product = self._product(x, w_t_all, y.dtype)
            y[rows, columns] = y[rows, columns] + product if add_inputs else product

    def _product(self, x: torch.Tensor, weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        parts = zip(self._tokens.parts(x.to(dtype)), self._tokens.slots, strict=True)
        return torch.cat([part @ weights[slot, 0].to(dtype).t() for part, slot in parts])

    def _add(
        self,
        groups: Groups,
        y: torch.Tensor,
        x: torch.Tensor,
        all_a: Sequence[torch.Tensor],
        all_b: Sequence[torch.Tensor],
        scale: float,
        sizes: Sequence[int],
    ) -> None:
        """Add each token's x·A·B to y: slice after slice, of each slot where its tokens are."""
        if not groups.slots:
            return
        y, start, dtype = y.view(-1, y.shape[-1]), 0, y.dtype
        parts = groups.parts(x.view(-1, x.shape[-1]).to(dtype))
        for a, b, size in zip(all_a, all_b, sizes, strict=True):
            layer = self._pairs.get(id(a)) or self._pairs.setdefault(id(a), Pairs(a, b))
            pairs = [layer.of(slot, self._ranks.get(slot)) for slot in groups.slots]
            if a.dtype != dtype:
                pairs = [(thin_a.to(dtype), thin_b.to(dtype)) for thin_a, thin_b in pairs]
            if any(len(thin_b) for _, thin_b in pairs):
                product = torch.cat(
                    [
                        torch.mm(torch.mm(part, thin_a), thin_b)
                        for part, (thin_a, thin_b) in zip(parts, pairs, strict=True)
                    ]
                )[:, :size]
                y[groups.rows, start : start + size] += product if scale == 1 else scale * product
            start += size


def install() -> None:
    """Have this process of vLLM compute LoRA here; once, before it makes its layers."""
    name = f"{GroupedPunica.__module__}.{GroupedPunica.__qualname__}"
    CpuPlatform.get_punica_wrapper = classmethod(lambda _: name)
    activate = LoRAModelManager.activate_adapter

    def activating(self: Any, lora_id: int) -> Any:
        if activated := activate(self, lora_id):
            slot, rank = self.lora_index_to_id.index(lora_id), _rank(self.get_adapter(lora_id))
            for wrapper in self.punica_wrapper_mapping.values():
                wrapper.refilled(slot, rank)
        return activated

    LoRAModelManager.activate_adapter = activating


def _rank(adapter: Any) -> int:
    """Return the largest rank that an adapter has anywhere."""
    sides = (each.lora_a for each in adapter.loras.values())
    parts = (part for side in sides for part in (side if isinstance(side, list) else [side]))
    return max((part.shape[-2] for part in parts if part is not None), default=0)
