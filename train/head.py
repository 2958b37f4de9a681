"""The head's loss on a CPU: of the tokens that are learnt alone, in tiles that stay in its caches.

TRL's fused head works on tiles of 4 096 tokens by 32 768 words. A GPU folds each in place, and gets
only tokens that have a label. Elsewhere TRL sends all of a batch through it, prompts and padding
too, and each tile has seven copies. On two cores a step took 1.7 times as long, and the run's peak
was 1.3 times as high (`python -m loadtests.trainer throughput`).
"""

from __future__ import annotations

import torch

TILE_VOCABULARY = 1024


def use_small_tiles() -> None:
    """Have TRL do so in this process; do nothing where there is a GPU."""
    if torch.cuda.is_available():
        return
    from trl.trainer import utils

    utils._CHUNKED_LOGPROB_CHUNK_SIZE = TILE_VOCABULARY
    utils._use_triton = lambda device: True  # there it decides only whether prompts are left out
