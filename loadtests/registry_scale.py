"""A large registry: how long `list` and `resolve` take, and how much memory.

    python -m loadtests.registry_scale --adapters 1000 --versions 10

Publishes genuine, if small, adapters through the registry itself, so building it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy
from safetensors.numpy import save_file
from tqdm import tqdm

from adapters.registry import Registry
from adapters.render import table
from adapters.types import BaseModel

_BASE = BaseModel("some/base", "0" * 40, "1" * 64, "2" * 64, "3" * 64)
_REPEATS = 5


def main() -> None:
    """Build, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="build it here, or measure what is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapters-scale-") as scratch:
        home = asked.keep or Path(scratch)
        registry = Registry.open(home)
        if not registry.names():
            _build(registry, asked.adapters, asked.versions)
        rows = [
            ("adapters list", _command_s("list", "--registry", str(home))),
            ("adapters list --all", _command_s("list", "--all", "--registry", str(home))),
            ("adapters list NAME", _command_s("list", "adapter-1", "--registry", str(home))),
        ]
        print(table(["command", "median s"], [(name, f"{s:.3f}") for name, s in rows]))
        print(f"resolve, warm: {_resolve_ms(registry):.3f} ms")
        print(f"peak memory of this process: {_peak_mb():.0f} MB")


def _build(registry: Registry, adapters: int, versions: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        for number in tqdm(range(adapters * versions), unit="version", disable=None):
            chance = numpy.random.default_rng(number)
            key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
            tensors = {
                f"{key}A.weight": chance.normal(size=(2, 64)).astype("float32"),
                f"{key}B.weight": chance.normal(size=(64, 2)).astype("float32"),
            }
            save_file(tensors, folder / "adapter_model.safetensors")
            name = f"adapter-{number // versions}"
            registry.publish(name, folder, base=_BASE, metrics={"eval_loss": number / 1e4})
            if number % versions == versions - 1:
                registry.promote(f"{name}@v{versions}")


def _command_s(*arguments: str) -> float:
    command = [sys.executable, "-P", "-c", "from adapters.cli import main; main()", *arguments]
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return median(times)


def _resolve_ms(registry: Registry) -> float:
    names = registry.names()
    refs = [ref for name in names for ref in (name, f"{name}@production", f"{name}@v1")]
    for ref in refs:
        registry.resolve(ref)
    began = time.perf_counter()
    for ref in refs:
        registry.resolve(ref)
    return (time.perf_counter() - began) / len(refs) * 1000


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
