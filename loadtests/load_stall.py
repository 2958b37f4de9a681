"""What loading an adapter does to others: ours beside vLLM's own filesystem resolver, in one run.

    python -m loadtests.load_stall

One stream runs on an adapter that is loaded while a request asks for one that is not: 33 MB in
1792 tensors, on a base of 128 small layers. Two numbers, each as a ratio of vLLM's: the stall, by
which the stream's longest gap exceeds its usual one, and the time to the cold one's first token.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import httpx

from adapters.demo.server import free_port, running, served
from adapters.registry import Registry
from adapters.render import table
from adapters.types import Version
from loadtests import fleet, random_base

_RAW = "vllm.entrypoints.openai.api_server"
_RANK = 44
_SETTLE_S = 3.0
_FLAGS = ("--max-loras=4", "--max-cpu-loras=16", "--max-lora-rank=64", "--max-model-len=2048")
_ASKED = {"prompt": "The kettle", "temperature": 0, "ignore_eos": True, "stream": True}


def main() -> None:
    """Start both servers, load one cold adapter a round on each in turn, print rows and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="cold loads of each; default 4")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapters-stall-") as scratch, ExitStack() as stack:
        home = Path(scratch)
        base = random_base.write("deep", home / "base")
        names = ["neighbour", *(f"cold-{number}" for number in range(asked.rounds))]
        registry = Registry.open(home / "registry")
        versions = fleet.publish(registry, names, base=str(base), r=_RANK)
        ours = ["--base", str(base), "--registry", str(registry.location), "--", *_FLAGS]
        urls = {
            "ours": stack.enter_context(served(ours, home / "ours.log")),
            "vLLM": stack.enter_context(_raw(base, versions, home)),
        }
        for url in urls.values():
            _first_token_s(url, "neighbour")
        found: dict[str, list[tuple[float, float, float]]] = {server: [] for server in urls}
        for name in names[1:]:
            for server, url in urls.items():
                found[server].append(_round(url, name))
    columns = ["server", "usual gap ms", "longest gap ms", "stall ms", "cold first token ms"]
    rows = []
    for server, rounds in found.items():
        for usual, longest, first in rounds:
            rows.append(
                [server, *(f"{1e3 * s:.0f}" for s in (usual, longest, longest - usual, first))]
            )
    print(table(columns, rows))
    stalls = {
        s: statistics.median(longest - usual for usual, longest, _ in found[s]) for s in found
    }
    firsts = {s: statistics.median(first for *_, first in found[s]) for s in found}
    print(f"stall: ours is {stalls['ours'] / stalls['vLLM']:.2f} of vLLM's (medians)")
    print(f"cold first token: ours is {firsts['ours'] / firsts['vLLM']:.2f} of vLLM's (medians)")


def _round(url: str, cold: str) -> tuple[float, float, float]:
    """Return the stream's usual and longest gap, and the cold request's first token, in seconds."""
    arrivals: list[float] = []
    done = threading.Event()

    def stream() -> None:
        content = _ASKED | {"model": "neighbour", "max_tokens": 2000}
        with httpx.stream("POST", f"{url}/v1/completions", json=content, timeout=120) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    arrivals.append(time.perf_counter())
                if done.is_set():
                    return

    neighbour = threading.Thread(target=stream)
    neighbour.start()
    time.sleep(_SETTLE_S)
    asked = time.perf_counter()
    first = _first_token_s(url, cold)
    time.sleep(_SETTLE_S)
    done.set()
    neighbour.join()
    gaps = [(after, after - before) for before, after in pairwise(arrivals)]
    usual = statistics.median(gap for at, gap in gaps if at < asked)
    return usual, max(gap for at, gap in gaps if at > asked), first


def _first_token_s(url: str, model: str) -> float:
    content = _ASKED | {"model": model, "max_tokens": 2}
    asked = time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/completions", json=content, timeout=120) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                return time.perf_counter() - asked
    raise SystemExit(f"{model} did not answer: {reply.status_code}")


def _raw(base: Path, versions: list[Version], home: Path):  # type: ignore[no-untyped-def]
    port, folder = free_port(), home / "plain"
    for version in versions:
        shutil.copytree(version.path, folder / version.name)
    command = [
        *("env", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "VLLM_PLUGINS=lora_filesystem_resolver"),
        f"VLLM_LORA_RESOLVER_CACHE_DIR={folder}",
        *(sys.executable, "-m", _RAW, "--model", str(base), "--served-model-name", "base"),
        *("--host", "127.0.0.1", "--port", str(port), "--enable-lora", "--dtype", "float32"),
        *("--enforce-eager", "--kv-cache-memory-bytes", str(1 << 30), *_FLAGS),
    ]
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    return running(command, f"http://127.0.0.1:{port}", "/health", home / "vllm.log")


if __name__ == "__main__":
    main()
