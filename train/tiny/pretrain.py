"""Pre-train the tiny base: `python -m train.tiny.pretrain --out FOLDER`.

A Llama of 2.4 M parameters reads the corpus once, without repetition, on the CPU. The same seed
gives the same corpus and tokenizer everywhere, and the same weights on one kind of CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from train.tiny import tokenizer as bpe
from train.tiny.corpus import documents

SEED = 0
STEPS = 3500
BATCH, LENGTH = 8, bpe.MAX_LENGTH
PEAK_LEARNING_RATE, WARMUP_STEPS = 4e-3, 100
_TOKENIZER_DOCUMENTS = 60_000
_REPORT_EVERY = 50
SUMS_FILE = "SHA256SUMS"


def config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the architecture: grouped-query attention, SwiGLU, tied embeddings."""
    return LlamaConfig(
        vocab_size=bpe.VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def learn_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a seed."""
    return bpe.learn(islice(documents(seed), _TOKENIZER_DOCUMENTS))


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[torch.Tensor]:
    """Yield (BATCH, LENGTH + 1) token ids; every row begins with a document's first token."""
    source = (bpe.encode(tokenizer, document) for document in documents(seed))
    while True:
        rows = []
        for _ in range(BATCH):
            row: list[int] = []
            while len(row) <= LENGTH:
                row += next(source)
            rows.append(row[: LENGTH + 1])
        yield torch.tensor(rows)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


def pretrain(steps: int, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the trained model, in float32, and its tokenizer."""
    tokenizer = learn_tokenizer(seed)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(tokenizer)).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    native_bf16 = torch.cpu._is_avx512_bf16_supported()
    began, tokens = time.monotonic(), 0
    for step, batch in enumerate(islice(batches(tokenizer, seed + 1), steps)):
        with torch.autocast("cpu", torch.bfloat16, enabled=native_bf16):
            logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch[:, 1:].flatten()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        tokens += BATCH * LENGTH
        if step % _REPORT_EVERY == 0 or step == steps - 1:
            speed = tokens / (time.monotonic() - began)
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {speed:.0f} tokens/s", flush=True)
    return model.eval(), tokenizer


def write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the base into `out`: weights in float16 (half the size, rounding below NF4's)."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    written = LlamaConfig.from_pretrained(out)
    written.dtype = "float32"  # what loaders should compute in
    written.save_pretrained(out)
    tokenizer.save_pretrained(out)
    names = sorted(f.name for f in out.iterdir() if f.name not in (SUMS_FILE, "README.md"))
    sums = "".join(f"{hashlib.sha256((out / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    (out / SUMS_FILE).write_text(sums)  # check with: sha256sum -c SHA256SUMS


def main() -> None:
    """Parse, pre-train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the base into")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default: {STEPS}")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default: {SEED}")
    arguments = parser.parse_args()
    model, tokenizer = pretrain(arguments.steps, arguments.seed)
    write(model, tokenizer, arguments.out)


if __name__ == "__main__":
    main()
