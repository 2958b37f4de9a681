"""What vLLM itself makes of adapter folders, with nothing of ours before it.

Run as a child: python -m tests.e2e.raw_vllm REQUEST ANSWER. The request names folders by kind
and prompts as token ids; the answer holds the greedy tokens of each with their log-probabilities
(natural), or what vLLM said in refusing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    llm = LLM(
        model=request["base"],
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_loras=8,
        max_lora_rank=request.get("max_lora_rank", 64),
        max_model_len=256,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
    )
    sampling = SamplingParams(
        temperature=0, max_tokens=request["max_tokens"], ignore_eos=True, logprobs=0
    )
    prompts = [{"prompt_token_ids": tokens} for tokens in request["prompts"]]

    def answers(lora: LoRARequest | None) -> dict[str, list[list[Any]]]:
        done = [
            reply.outputs[0]
            for reply in llm.generate(prompts, sampling, lora_request=lora, use_tqdm=False)
        ]
        return {
            "tokens": [list(said.token_ids) for said in done],
            "logprobs": [
                [of[token].logprob for token, of in zip(said.token_ids, said.logprobs, strict=True)]
                for said in done
            ],
        }

    outcomes: dict[str, Any] = {"": answers(None)}
    for number, (kind, folder) in enumerate(request["folders"].items(), start=1):
        lora = LoRARequest(kind, number, folder)
        try:
            llm.llm_engine.add_lora(lora)  # apart, so that a refusal leaves no request behind
            outcomes[kind] = answers(lora)
        except Exception as error:
            outcomes[kind] = {"refused": f"{type(error).__name__}: {error}"}
        finally:
            llm.llm_engine.remove_lora(number)
    Path(sys.argv[2]).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
