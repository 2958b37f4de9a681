"""A worker reads a checkpoint at once, into memory of its own.

vLLM reads adapters by `safetensors.safe_open`. That maps the file, and vLLM keeps the mapping where
the weights are of the base's type: whoever writes into the file then changes what is served, and
cutting it short ends the process. And every tensor holds the interpreter's lock, which the steps
need, for longer than its bytes take: for its copy and, where there is a GPU, to pin it. Here the
file is read in one call, without that lock and into memory that is pinned once, and tensors are
views.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.lora import lora_model
from vllm.utils.torch_utils import PIN_MEMORY

from adapters.weights import read_header

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_WORK_S, _REST_S = 5e-4, 1e-3


class Checkpoint:
    """A safetensors file, as `safe_open` gives it."""

    def __init__(self, path: str, framework: str = "pt") -> None:
        """Read the file whole.

        Raises:
            InvalidAdapter: it is none, or not all of it.
            OSError: it cannot be read.
        """
        self._tensors = read_header(Path(path))
        with open(path, "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=PIN_MEMORY)
            if stream.readinto(self._bytes.numpy().data) != size:
                raise OSError(f"{path} was cut short while it was read")
        self._since = time.perf_counter()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        """The tensors stay."""

    def keys(self) -> Collection[str]:
        """Return the tensors' names."""
        return self._tensors.keys()

    def get_tensor(self, name: str) -> torch.Tensor:
        """Return a tensor, in the file's own memory here.

        Raises:
            ValueError: of a type that no adapter has.
        """
        self._breathe()
        tensor = self._tensors[name]
        if (dtype := _TYPES.get(tensor.dtype)) is None:
            raise ValueError(f"{name} is of type {tensor.dtype}")
        found = self._bytes[tensor.start : tensor.start + tensor.size_bytes]
        if tensor.start % dtype.itemsize:  # after one of a smaller type
            found = found.clone()
        return found.view(dtype).view(tensor.shape)

    def _breathe(self) -> None:
        """Leave the interpreter to the steps for most of the time that many tensors take."""
        now = time.perf_counter()
        if now - self._since > _WORK_S:
            time.sleep(_REST_S)
            self._since = time.perf_counter()


def install() -> None:
    """Have vLLM read adapters here, in this process."""
    given: Any = SimpleNamespace(safe_open=Checkpoint)
    lora_model.safetensors = given
