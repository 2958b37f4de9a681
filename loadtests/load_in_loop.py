"""How long the engine's loop stands still for a load: vLLM's `add_lora` beside ours, in turn.

    python -m loadtests.load_in_loop

In one process, with vLLM's own LoRA layers and no engine, so that it measures what stands in the
loop and nothing else: 33 MB in 1792 tensors, on a base of 128 small layers. What stands beside the
loop (reading, parsing, packing) is left out of ours, as steps go on meanwhile; how streams fare
through it is `loadtests.load_stall`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adapters.demo.server import free_port
from adapters.registry import Registry
from adapters.render import table
from loadtests import fleet, random_base

_RANK, _VERSIONS = 44, 4


def main() -> None:
    """Load every version a few times each way; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="loads of each version; default 6")
    asked = parser.parse_args()
    os.environ |= {"VLLM_PLUGINS": "", "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"}
    with tempfile.TemporaryDirectory(prefix="adapters-loop-") as scratch:
        base = random_base.write("deep", Path(scratch) / "base")
        registry = Registry.open(Path(scratch) / "registry")
        names = [f"cold-{number}" for number in range(_VERSIONS)]
        paths = [str(v.path) for v in fleet.publish(registry, names, base=str(base), r=_RANK)]
        from serve.engines.vllm_worker import AdapterMemory

        worker = AdapterMemory()  # before the layers: it says how they compute on a CPU
        with _loras(base) as loras:
            took = _rounds(worker, loras, paths * asked.rounds)
    usual = statistics.median(took["vLLM's add_lora"])
    rows = [
        (way, f"{1e3 * statistics.median(s):.1f}", f"{1e3 * max(s):.1f}",
         f"{statistics.median(s) / usual:.2f}")
        for way, s in took.items()
    ]  # fmt: skip
    print(table(["in the loop", "median ms", "worst ms", "of vLLM's"], rows))


def _rounds(worker: Any, loras: Any, paths: list[str]) -> dict[str, list[float]]:
    """Return the seconds in the loop of each load, by way of loading."""
    from vllm.lora.request import LoRARequest

    worker.model_runner = SimpleNamespace(lora_manager=loras)
    took: dict[str, list[float]] = {"vLLM's add_lora": [], "ours, first": [], "ours, again": []}
    numbers = count(1)
    for path in paths:
        number = next(numbers)
        began = time.perf_counter()
        loras.add_adapter(LoRARequest(f"stock-{number}", number, path))
        took["vLLM's add_lora"].append(time.perf_counter() - began)
        loras.remove_adapter(number)
        for way, activate in (("ours, first", True), ("ours, again", False)):
            number = next(numbers)
            asked = (f"ours-{number}", number, path)
            worker.stage_adapter(*asked)
            while (seconds := worker.adopt_adapter(*asked, activate)) is None:
                time.sleep(0.002)
            took[way].append(seconds)
            loras.remove_adapter(number)
    return took


@contextmanager
def _loras(base: Path) -> Iterator[Any]:
    """Make what vLLM's workers hold adapters with, around a base without weights."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import (
        destroy_distributed_environment,
        destroy_model_parallel,
        init_distributed_environment,
        initialize_model_parallel,
    )
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
    from vllm.model_executor.model_loader import get_model

    if not torch.accelerator.is_available():
        torch.accelerator.empty_cache = lambda: None  # vLLM asks for it, and there is none
    config = EngineArgs(
        model=str(base), dtype="float32", enforce_eager=True, load_format="dummy",
        enable_lora=True, max_loras=4, max_cpu_loras=16, max_lora_rank=64,
    ).create_engine_config()  # fmt: skip
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"tcp://127.0.0.1:{free_port()}", 0, "gloo")
        initialize_model_parallel(1, 1)
        try:
            model = get_model(vllm_config=config)
            loras = LRUCacheWorkerLoRAManager(config, torch.device("cpu"), {})
            loras.create_lora_manager(model, config)
            yield loras
        finally:  # else a trainer in this process takes itself for one of several
            destroy_model_parallel()
            destroy_distributed_environment()


if __name__ == "__main__":
    main()
