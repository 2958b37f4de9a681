"""What vLLM itself makes of reward models, in an engine that classifies.

Run as a child: python -m tests.e2e.raw_classifier REQUEST ANSWER. The request names folders and
prompts as token ids; the answer holds a number for each prompt, without an activation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vllm import LLM, PoolingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    llm = LLM(
        model=request["base"],
        runner="pooling",
        convert="classify",
        hf_overrides=request["hf_overrides"],
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=64,
        max_model_len=256,
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
    )
    prompts = [{"prompt_token_ids": tokens} for tokens in request["prompts"]]
    numbers = {}
    for number, (name, folder) in enumerate(request["folders"].items(), start=1):
        done = llm.classify(
            prompts,
            pooling_params=PoolingParams(use_activation=False),
            lora_request=LoRARequest(name, number, folder),
            use_tqdm=False,
        )
        numbers[name] = [reply.outputs.probs[0] for reply in done]
    Path(sys.argv[2]).write_text(json.dumps(numbers))


if __name__ == "__main__":
    main()
