"""The base's own embeddings, which PEFT saves beside LoRA on them unless told not to.

vLLM leaves them out, PEFT loads them over the base's: the same only where they are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from adapters.lint.base import Base
from adapters.lint.findings import Finding
from adapters.weights import Tensor, equal

_COPY = re.compile(
    r"base_model\.model\.(?P<module>(?:[A-Za-z0-9_.]{1,512}\.)?(?:embed_tokens|lm_head))"
    r"\.base_layer\.weight"
)
_FIX = "Save with save_embedding_layers=False."


def is_copy(key: str) -> bool:
    """Say whether a tensor's name is that of a base's own embedding."""
    return _COPY.fullmatch(key) is not None


def check_copies(path: Path, tensors: Mapping[str, Tensor], base: Base) -> Iterator[Finding]:
    """Find copies that are not equal to what the base has, or cannot be compared."""
    for key, tensor in tensors.items():
        if not (found := _COPY.fullmatch(key)):
            continue
        if not base.tensors:
            yield Finding("unchecked", key, "the base's weights are not here to compare", _FIX)
            continue
        names = [f"{found['module']}.weight"]
        if base.tied:
            names.append("model.embed_tokens.weight")
        theirs = next((base.tensors[name] for name in names if name in base.tensors), None)
        if theirs is None or not equal(path, tensor, *theirs):
            yield Finding("copy", key, "not the base's own weights", _FIX)
