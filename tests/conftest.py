"""What all tests share: an environment of their own, and small genuine PEFT adapter folders."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy
import pytest
from hypothesis import settings
from safetensors.numpy import save_file

from adapters.types import BaseModel
from tests.hub.server import WRITE_TOKEN, Hub

collect_ignore = ["clients"]  # `make test-clients`: an environment of their own
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models so small that more only wait for each other
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored, children too
settings.register_profile("unhurried", deadline=None)  # right or wrong, not late
settings.load_profile("unhurried")

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
"""config.json of the base that these adapters fit."""
PROJECTIONS = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (32, 16),
    "self_attn.v_proj": (32, 16),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (32, 48),
    "mlp.up_proj": (32, 48),
    "mlp.down_proj": (48, 32),
}
"""(in, out) of what they adapt in each layer, written down by hand."""
RANK = 4
BASE = BaseModel("small", "sha256:" + "0" * 64, "1" * 64, "2" * 64, "3" * 64)


class MakeAdapter(Protocol):
    def __call__(
        self,
        *,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        tensors: Mapping[str, numpy.ndarray | None] | None = None,
    ) -> Path:
        """Write a folder as PEFT's save_pretrained does; each call one of its own.

        `config` and `tensors` replace or add entries; a tensor that is None is left out.
        """


def key(module: str, side: str, *, layer: int = 0) -> str:
    """Name the tensor of one side of a LoRA pair."""
    return f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"


def lora_tensors(seed: int) -> dict[str, numpy.ndarray]:
    """Return seeded A and B of every projection of every layer."""
    chance = numpy.random.default_rng(seed)
    tensors = {}
    for layer in range(LLAMA["num_hidden_layers"]):
        for module, (size_in, size_out) in PROJECTIONS.items():
            a, b = chance.normal(size=(RANK, size_in)), chance.normal(size=(size_out, RANK))
            tensors[key(module, "A", layer=layer)] = a.astype("float32")
            tensors[key(module, "B", layer=layer)] = b.astype("float32")
    return tensors


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them, and none of theirs is touched."""
    for name in [name for name in os.environ if name.startswith("ADAPTERS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "home"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub double that the client talks to, in this process and in those it starts."""
    with Hub() as hub:
        monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        # Read when the client is imported, which some other test may have done.
        constants = "huggingface_hub.constants"
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(f"{constants}.ENDPOINT", hub.endpoint)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    place, numbers = tmp_path_factory.mktemp("adapters"), count(1)

    def make(
        *,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        tensors: Mapping[str, numpy.ndarray | None] | None = None,
    ) -> Path:
        folder = place / str(next(numbers))
        folder.mkdir()
        plain = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": BASE.id,
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "target_modules": sorted(module.rpartition(".")[2] for module in PROJECTIONS),
            "bias": "none",
            "inference_mode": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps({**plain, **(config or {})}))
        weights = {**lora_tensors(seed), **(tensors or {})}
        kept = {name: values for name, values in weights.items() if values is not None}
        save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture
def adapter_folder(make_adapter: MakeAdapter) -> Path:
    """One adapter folder, freshly written."""
    return make_adapter()
