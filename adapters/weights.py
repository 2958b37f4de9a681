"""What a safetensors file holds, without torch: names, shapes, types, values."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from adapters.errors import InvalidAdapter

if TYPE_CHECKING:
    from numpy import ndarray

_HEADER_LIMIT_BYTES = 16 << 20
_CHUNK_BYTES = 4 << 20
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file."""

    dtype: str
    """As safetensors writes it: F32, F16, BF16 …"""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    size_bytes: int


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, reading only its header.

    Source: https://huggingface.co/docs/safetensors (format).

    Raises:
        InvalidAdapter: truncated, oversized, with holes or overlaps, or not safetensors at all.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _HEADER_LIMIT_BYTES:
                raise ValueError(f"header of {length} bytes")
            with safe_open(path, framework="numpy"):
                pass  # the reference parser checks offsets, holes and the file's length
            header: dict[str, Any] = json.loads(stream.read(length), object_pairs_hook=unique)
    except OSError as error:
        raise InvalidAdapter(
            f"{path} cannot be read: {error.strerror}.", fix="Check the file and its rights."
        ) from error
    except (ValueError, struct.error, SafetensorError) as error:
        raise InvalidAdapter(
            f"{path} is not a whole safetensors file: {error}.", fix="Write or copy it again."
        ) from error
    header.pop("__metadata__", None)
    return {
        name: Tensor(
            entry["dtype"],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def refuse_constant(word: str) -> NoReturn:
    """Refuse `NaN` and `Infinity`; for JSON's `parse_constant`.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{word} is not a number JSON has")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON's pairs: where a name stands twice, parsers take different ones.

    Raises:
        ValueError: a name stands twice.
    """
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"{name[:80]!r} stands there twice")
        made[name] = value
    return made


def peaks(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield (name, largest magnitude) of each floating tensor; NaN or infinity if it holds one.

    Holds a few megabytes at a time, whatever the tensor's size.
    """
    import numpy

    with path.open("rb") as stream:
        for name, tensor in tensors.items():
            if tensor.dtype not in _SIZES:
                continue
            stream.seek(tensor.start)
            left, peak = tensor.size_bytes, 0.0
            while left > 0 and (raw := stream.read(min(left, _CHUNK_BYTES))):
                left -= len(raw)
                found = numpy.abs(_floats(raw, tensor.dtype)).max(initial=0.0)
                peak = float(numpy.maximum(peak, found))  # which keeps a NaN
            yield name, peak


def equal(path: Path, tensor: Tensor, other_path: Path, other: Tensor) -> bool:
    """Say whether two floating tensors hold the same numbers, in whatever types.

    Holds a few megabytes at a time, whatever their size.
    """
    import numpy

    if tensor.shape != other.shape or not {tensor.dtype, other.dtype} <= _SIZES.keys():
        return False
    with path.open("rb") as left, other_path.open("rb") as right:
        left.seek(tensor.start)
        right.seek(other.start)
        remaining = math.prod(tensor.shape)
        while remaining > 0:
            count = min(remaining, _CHUNK_BYTES // 8)
            remaining -= count
            mine = _floats(left.read(count * _SIZES[tensor.dtype]), tensor.dtype)
            theirs = _floats(right.read(count * _SIZES[other.dtype]), other.dtype)
            if not numpy.array_equal(mine, theirs):
                return False
    return True


def values(path: Path, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, ndarray[Any, Any]]]:
    """Yield (name, values in float64) of each floating tensor, in the tensor's own shape."""
    with path.open("rb") as stream:
        for name, tensor in tensors.items():
            if tensor.dtype not in _SIZES:
                continue
            stream.seek(tensor.start)
            found = _floats(stream.read(tensor.size_bytes), tensor.dtype)
            yield name, found.astype("f8").reshape(tensor.shape)


def _floats(raw: bytes, dtype: str) -> ndarray[Any, Any]:
    import numpy

    if dtype == "BF16":  # which numpy has not: the upper half of a float32
        wide = numpy.frombuffer(raw, dtype="<u2").astype("<u4") << 16
        return wide.view("<f4")
    return numpy.frombuffer(raw, dtype=f"<f{_SIZES[dtype]}")
