"""What loading an adapter does to others: ours beside vLLM's own filesystem resolver, in one run.

    python -m loadtests.load_stall

One stream runs on an adapter that is loaded while a request asks for one that is not: 33 MB in
1792 tensors, on a base of 128 small layers. Then the same request comes again, to the same adapter.
Three numbers of each round, and their medians and worst as a ratio of vLLM's:

- stall: by how much the stream's longest gap, from the cold request on, exceeds its usual one
- of the load: by how much it exceeds the longest gap beside the warm request, whose prompt delays
  the stream as well, whoever loads adapters
- first token: from asking for the cold adapter until it answers
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
from typing import NamedTuple

import httpx

from adapters.demo.server import free_port, running, served
from adapters.registry import Registry
from adapters.render import table
from adapters.types import Version
from loadtests import fleet, random_base

_RAW = "vllm.entrypoints.openai.api_server"
_RANK = 44
_SETTLE_S, _AFTER_S = 3.0, 1.0
_FLAGS = ("--max-loras=4", "--max-cpu-loras=16", "--max-lora-rank=64", "--max-model-len=2048")
_ASKED = {"prompt": "The kettle", "temperature": 0, "ignore_eos": True, "stream": True}


def main() -> None:
    """Start both servers, load one cold adapter a round on each in turn, print rows and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="cold loads of each; default 8")
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
        found: dict[str, list[Round]] = {server: [] for server in urls}
        for number, name in enumerate(names[1:]):
            for server in list(urls)[:: -1 if number % 2 else 1]:
                found[server].append(_round(urls[server], name))
    columns = ["server", *(field.replace("_", " ") for field in Round._fields), "of the load"]
    rows = [
        [server, *(f"{1e3 * seconds:.0f}" for seconds in (*each, each.of_the_load))]
        for server, rounds in found.items()
        for each in rounds
    ]
    print("ms\n" + table(columns, rows))
    for what, measure in {
        "stall": lambda each: each.stall,
        "of the load": lambda each: each.of_the_load,
        "first token": lambda each: each.first_token,
    }.items():
        ours, other = ([1e3 * measure(each) for each in found[server]] for server in urls)
        said = [
            f"{how} {of(ours):.0f} and {of(other):.0f}, {of(ours) / of(other):.2f}"
            for how, of in (("median", statistics.median), ("worst", max))
        ]
        print(f"{what}, ours and vLLM's: {'; '.join(said)}")


class Round(NamedTuple):
    """What one stream saw of one cold load, in seconds."""

    usual_gap: float
    cold_gap: float
    warm_gap: float
    first_token: float

    @property
    def stall(self) -> float:
        return self.cold_gap - self.usual_gap

    @property
    def of_the_load(self) -> float:
        return self.cold_gap - self.warm_gap


def _round(url: str, cold: str) -> Round:
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
    first = time.perf_counter()
    first_token = _first_token_s(url, cold)
    time.sleep(_SETTLE_S)
    again = time.perf_counter()
    again_token = _first_token_s(url, cold)
    time.sleep(_SETTLE_S)
    done.set()
    neighbour.join()
    gaps = [(after, after - before) for before, after in pairwise(arrivals)]

    def longest(asked: float, token: float) -> float:
        return max(gap for at, gap in gaps if asked < at < asked + token + _AFTER_S)

    return Round(
        usual_gap=statistics.median(gap for at, gap in gaps if at < first),
        cold_gap=longest(first, first_token),
        warm_gap=longest(again, again_token),
        first_token=first_token,
    )


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
