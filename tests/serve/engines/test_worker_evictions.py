"""What becomes of an adapter's files once a worker has read them changes no answer."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adapters.registry import Registry
from adapters.types import Version
from loadtests import fleet, load_in_loop, random_base
from serve.engines import worker_evictions

_SLOTS = 4


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    before = sys.getswitchinterval()
    import serve.engines.vllm_worker  # noqa: F401  # before the layers are made, as in a worker

    base = random_base.write("toy", tmp_path_factory.mktemp("base") / "toy")
    with load_in_loop._loras(base) as loras:
        yield loras, base
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def versions(loras: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    registry = Registry.open(tmp_path_factory.mktemp("registry"))
    names = [f"a{number}" for number in range(_SLOTS + 1)]
    return fleet.publish(registry, names, base=str(loras[1]), r=8)


class Worker:
    """A worker of vLLM's own making, but for its engine."""

    def __init__(self, loras: Any) -> None:
        from serve.engines.vllm_worker import AdapterMemory

        self.loras = loras
        self.memory = loras._adapter_manager
        self.memory.remove_all_adapters()
        loras.__dict__.pop("_load_adapter", None)  # what the one before put in place of vLLM's
        self.memory.__dict__.pop("remove_oldest_adapter", None)
        self.extension = AdapterMemory()
        self.extension.model_runner = SimpleNamespace(lora_manager=loras)

    def load(self, number: int, folder: Path, name: str = "") -> None:
        asked = (name or f"a{number}", number, str(folder))
        self.extension.stage_adapter(*asked)
        while self.extension.adopt_adapter(*asked, True) is None:
            time.sleep(0.01)

    def step(self, number: int, folder: Path) -> list[torch.Tensor]:
        """Do what a step does with an adapter; return what is in its slot."""
        from vllm.lora.request import LoRARequest

        self.loras.add_adapter(LoRARequest(f"a{number}", number, str(folder)))
        index = self.memory.lora_index_to_id.index(number)
        layers = self.memory.modules.values()
        parts = [part for each in layers for part in (each.lora_a_stacked, each.lora_b_stacked)]
        stacks = [s for part in parts for s in (part if isinstance(part, tuple) else (part,))]
        return [stack[index].clone() for stack in stacks]


@pytest.fixture
def worker(loras: Any) -> Worker:
    return Worker(loras[0])


@pytest.fixture
def folder(versions: list[Version], tmp_path: Path) -> Path:
    """A version's folder that may be written to."""
    folder = Path(shutil.copytree(versions[0].path, tmp_path / "v1"))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o700)
    return folder


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_who_writes_into_a_published_file_changes_nothing_that_was_read(
    worker: Worker, versions: list[Version], folder: Path
) -> None:
    worker.load(1, folder)
    before = worker.step(1, folder)
    weights = folder / "adapter_model.safetensors"
    with weights.open("r+b") as stream:
        stream.seek(-(1 << 16), os.SEEK_END)
        stream.write(bytes(1 << 16))
    os.truncate(weights, 1 << 12)
    for number, version in enumerate(versions[1:], 2):  # out of its slot, and back
        worker.load(number, version.path)
    assert 1 not in worker.extension.held_adapters()["slots"]
    assert same(worker.step(1, folder), before)


def test_files_that_change_between_their_check_and_their_reading_are_not_let_in(
    worker: Worker, versions: list[Version], folder: Path
) -> None:
    name = versions[0].engine_name
    worker.load(1, folder, name)
    other = versions[1].path / "adapter_model.safetensors"
    shutil.copyfile(other, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=re.escape(f"{name}: its files were changed")):
        worker.load(2, folder, name)
    assert worker.extension.held_adapters()["memory"] == [1]


def test_a_step_brings_back_what_was_evicted_under_a_request_without_its_files(
    worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.exceptions import LoRAAdapterNotFoundError

    monkeypatch.setattr(worker_evictions, "_MOMENT_S", 0.0)
    worker.load(1, folder)
    before = worker.step(1, folder)
    shutil.rmtree(folder)
    worker.memory.remove_oldest_adapter()
    for _ in range(3):
        assert 1 not in worker.extension.held_adapters([1])["memory"]
    assert same(worker.step(1, folder), before)
    worker.memory.remove_oldest_adapter()
    worker.extension.held_adapters([])
    with pytest.raises(LoRAAdapterNotFoundError):
        worker.step(1, folder)  # nobody needed it any more
