"""Raw vLLM on a mixture of experts, with the one kernel that its CPU build does not have.

Run as `tests.e2e.raw_vllm` is. With LoRA vLLM computes experts in Triton, on a GPU only: on a CPU
the first request ends with "module 'triton.language' has no attribute 'float32'". Here plain torch
multiplies what vLLM has put into its slots; which names it takes, how it packs, scales and stacks
them, and what it puts where, stays vLLM's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import silu
from vllm.model_executor.layers.fused_moe.experts.triton_moe import TritonExperts

from tests.e2e import raw_vllm


def apply(
    self: TritonExperts,
    output: torch.Tensor,
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *_: Any,
    **__: Any,
) -> None:
    """Write each token's weighted sum over its experts, with the LoRA of the token's slot.

    hidden_states, output: (tokens, hidden); w1: (experts, 2 · intermediate, hidden), gate above
    up; w2: (experts, hidden, intermediate); the topk: (tokens, k). Slot -1 is the base alone.
    """
    lora = self._lora_context
    slots = lora.punica_wrapper.token_lora_indices[: len(hidden_states)].tolist()
    output.zero_()
    for token, slot in enumerate(slots):
        for weight, expert in zip(topk_weights[token], topk_ids[token].tolist(), strict=True):

            def project(
                x: torch.Tensor,
                base: torch.Tensor,
                stacked_a: tuple[torch.Tensor, ...],
                stacked_b: tuple[torch.Tensor, ...],
                at: tuple[int, int] = (slot, expert),
            ) -> torch.Tensor:
                y = base[at[1]] @ x
                if at[0] < 0:
                    return y
                pairs = zip(stacked_a, stacked_b, strict=True)
                return y + torch.cat([b[at] @ (a[at] @ x) for a, b in pairs])

            x = hidden_states[token]
            gate, up = project(x, w1, lora.w13_lora_a_stacked, lora.w13_lora_b_stacked).chunk(2)
            down = project(silu(gate) * up, w2, lora.w2_lora_a_stacked, lora.w2_lora_b_stacked)
            output[token] += weight * down


if __name__ == "__main__":
    TritonExperts.apply = apply
    raw_vllm.main()
