"""What lint knows of a base: the modules that LoRA may change, their sizes, its own tensors.

From its config.json where its architecture is one of `adapters.projections`; else from the
headers of its weights, where they are on this machine: names and shapes, no values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adapters.errors import InvalidAdapter
from adapters.lint.findings import Finding
from adapters.projections import EMBEDDINGS, knows, sizes
from adapters.weights import Tensor, read_header

_INDEX_FILE = "model.safetensors.index.json"
_WEIGHTS_FILE = "model.safetensors"
_PLAIN_TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8")
"""In which a weight keeps its shape; 4-bit weights are packed."""


@dataclass(frozen=True)
class Base:
    """A base as far as it is known; nothing is read before it is asked for."""

    config: Mapping[str, Any] | None = None
    folder: Path | None = None

    @cached_property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """(in, out) of each module that LoRA may change, of an embedding (vocabulary, out).

        Empty where they are not known.

        Raises:
            Rejected: the configuration lacks what its architecture needs.
        """
        if self.config is None:
            return {}
        return sizes(self.config) if self.proven else dict(self._from_headers(self.config))

    @property
    def proven(self) -> bool:
        """Whether vLLM is known to serve LoRA on all of `sizes`."""
        return self.config is not None and knows(self.config)

    @property
    def tied(self) -> bool:
        """Whether the embeddings are one, as far as is known."""
        return self.config is None or bool(self.config.get("tie_word_embeddings"))

    @cached_property
    def tensors(self) -> Mapping[str, tuple[Path, Tensor]]:
        """Each tensor of its safetensors files, with the file; empty where they are not here."""
        found = {}
        try:
            for file in self._files():
                found.update({name: (file, t) for name, t in read_header(file).items()})
        except (InvalidAdapter, OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # half a base says nothing
        return found

    def _files(self) -> list[Path]:
        if self.folder is None:
            return []
        index = self.folder / _INDEX_FILE
        if not index.is_file():
            return [self.folder / _WEIGHTS_FILE]
        return [
            self.folder / name for name in {*json.loads(index.read_text())["weight_map"].values()}
        ]

    def _from_headers(self, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield what the headers tell, unless weights have other names or shapes than modules.

        So it is in bases of several parts (text and vision), and in quantised ones.
        """
        weights = {n: t for n, (_, t) in self.tensors.items() if len(t.shape) == 2}
        if "text_config" in config or any(t.dtype not in _PLAIN_TYPES for t in weights.values()):
            return
        for name, tensor in weights.items():
            module, dot, last = name.rpartition(".")
            if dot and last == "weight":
                rows, columns = tensor.shape
                embedding = module.rpartition(".")[2] in EMBEDDINGS[:1]
                yield module, (rows, columns) if embedding else (columns, rows)


def check_known(base: Base) -> Iterator[Finding]:
    """Find a base that is not known well enough to say what vLLM serves."""
    if base.config is not None and not base.proven:
        what = "which of its modules vLLM serves LoRA on" if base.sizes else "its modules"
        yield Finding(
            "unchecked",
            "model_type",
            f"not known of a {base.config.get('model_type')!r} base: {what}",
            "Compare its answers with the base's before you promote it.",
        )
