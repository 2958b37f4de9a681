"""A worker's own reading of checkpoints gives what safetensors gives, in memory of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from adapters.errors import InvalidAdapter
from serve.engines.worker_reading import Checkpoint

_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn)
_SHAPES = st.lists(st.integers(0, 5), max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(of=st.lists(st.tuples(st.sampled_from(_TYPES), _SHAPES), max_size=6))
def test_tensors_are_those_that_safetensors_reads(
    tmp_path: Path, of: list[tuple[torch.dtype, list[int]]]
) -> None:
    path = tmp_path / "adapter_model.safetensors"
    made = {f"t{n}": torch.randn(shape).to(dtype) for n, (dtype, shape) in enumerate(of)}
    save_file(made, path)
    with Checkpoint(str(path)) as read, safe_open(path, framework="pt") as expected:
        assert set(read.keys()) == set(expected.keys())
        for name in read.keys():  # noqa: SIM118  # it is what safe_open is asked
            mine, theirs = read.get_tensor(name), expected.get_tensor(name)
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            assert torch.equal(mine.float(), theirs.float())


def test_an_odd_number_of_small_ones_before_larger_ones_is_read(tmp_path: Path) -> None:
    """safetensors lays larger types first; other writers need not."""
    path = tmp_path / "odd.safetensors"
    header = (
        b'{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]}}'
    )
    header += b" " * (-len(header) % 8)
    numbers = torch.tensor([1.5, -2.0])
    path.write_bytes(
        len(header).to_bytes(8, "little")
        + header
        + torch.tensor([0.5], dtype=torch.float16).numpy().tobytes()
        + numbers.numpy().tobytes()
    )
    assert torch.equal(Checkpoint(str(path)).get_tensor("b"), numbers)


def test_the_file_may_go_once_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file({"a": torch.ones(4096)}, path)
    read = Checkpoint(str(path))
    with path.open("r+b") as stream:
        stream.seek(-4096, os.SEEK_END)
        stream.write(bytes(4096))
    os.truncate(path, 64)
    assert torch.equal(read.get_tensor("a"), torch.ones(4096))


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file({"a": torch.ones(4096)}, path)
    os.truncate(path, 4096)
    with pytest.raises(InvalidAdapter):
        Checkpoint(str(path))


def test_a_type_that_no_adapter_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file({"a": torch.ones(8, dtype=torch.int64)}, path)
    with pytest.raises(ValueError, match="I64"):
        Checkpoint(str(path)).get_tensor("a")
