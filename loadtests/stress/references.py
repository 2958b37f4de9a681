"""Whether an answer is the greedy one, as transformers + PEFT compute it in float32.

An answer is checked by one pass over prompt and answer: each of its tokens must be the one that
the reference would have chosen after those before it. That is generation by the reference,
token for token, without its loop. Two tokens whose logits lie closer than what float32 differs by
between two batches are a tie, and either is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

TOLERANCE = 2e-3
"""Of a logit. Wrong adapters are off by whole units."""


class References:
    """One base, and one adapter in it at a time."""

    def __init__(self, base: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self._adapted = None
        self._weights: Path | None = None

    @lru_cache(maxsize=1024)  # noqa: B019 - lives as long as the process
    def prompt(self, message: str, *, chat: bool, system: str | None = None) -> tuple[int, ...]:
        """Return the tokens that a request is turned into."""
        if not chat:
            return tuple(self._tokenizer(message).input_ids)
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": message})
        rendered = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=True
        )
        return tuple(rendered["input_ids"])

    def text(self, tokens: Sequence[int]) -> str:
        """Return what tokens say."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def shortfall(
        self, weights: Path | None, prompt: Sequence[int], answer: Sequence[int]
    ) -> float:
        """Return by how much a token's logit is below the greedy one's, at worst; 0: it is greedy.

        `weights`: a PEFT folder; None: the base alone.
        """
        import torch

        model = self._with(weights)
        tokens = torch.tensor([[*prompt, *answer]])
        with torch.inference_mode():
            if weights is None and self._adapted is not None:
                with self._adapted.disable_adapter():
                    logits = model(tokens).logits[0]
            else:
                logits = model(tokens).logits[0]
        said = logits[len(prompt) - 1 : -1]
        chosen = said.gather(1, tokens[0, len(prompt) :].unsqueeze(1)).squeeze(1)
        return float((said.max(dim=1).values - chosen).max())

    def _with(self, weights: Path | None):  # type: ignore[no-untyped-def]
        from peft import PeftModel, set_peft_model_state_dict
        from safetensors.torch import load_file

        if weights is None or weights == self._weights:
            return self._adapted or self._base
        if self._adapted is None:
            self._adapted = PeftModel.from_pretrained(self._base, weights).eval()
        else:
            set_peft_model_state_dict(
                self._adapted, load_file(weights / "adapter_model.safetensors")
            )
        self._weights = weights
        return self._adapted
