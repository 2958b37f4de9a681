"""Ours beside raw vLLM: the same engine, flags and adapters, in turn, in one run.

    python -m loadtests.against_vllm

Raw vLLM is started through its own API server with every adapter given by `--lora-modules`, with
the slots that ours chooses, and once more with its default of one slot. What ours adds (routing,
admission, keys, the registry) shows as a ratio below 1, what it saves as one above.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from adapters import bases
from adapters.demo.server import free_port, running, served
from adapters.registry import Registry
from adapters.render import table
from adapters.types import Version
from loadtests import fleet
from loadtests.run import COLUMNS, SCENARIOS, scenario

_RAW = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Start the three servers, load each in turn, print rows and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adapters", type=int, default=12, help="how many; default 12")
    parser.add_argument("--users", type=int, default=8, help="requests in flight; default 8")
    parser.add_argument("--run-time-s", type=int, default=20, help="of each run; default 20")
    parser.add_argument("--rounds", type=int, default=2, help="each server's turns; default 2")
    asked = parser.parse_args()
    slots = [f"--max-loras={asked.adapters}", f"--max-cpu-loras={asked.adapters}"]
    with tempfile.TemporaryDirectory(prefix="adapters-load-") as scratch, ExitStack() as stack:
        home = Path(scratch)
        names = [f"fleet-{number}" for number in range(asked.adapters)]
        versions = fleet.publish(Registry.open(home), names)
        ours = ["--base", "tiny", "--registry", str(home), "--", *slots]
        urls = {
            "ours": stack.enter_context(served(ours, home / "ours.log")),
            "vLLM": stack.enter_context(_raw(versions, slots, home / "vllm.log")),
            "vLLM, 1 slot": stack.enter_context(_raw(versions, [], home / "default.log")),
        }
        rows = [
            [server, *scenario(name, url, home, users=asked.users, run_time_s=asked.run_time_s)]
            for _ in range(asked.rounds)
            for name in SCENARIOS
            for server, url in urls.items()
        ]
    print(table(["server", *COLUMNS], rows))
    for name in SCENARIOS:
        speed = {
            server: sum(float(str(row[4])) for row in rows if row[:2] == [server, name.lower()])
            for server in urls
        }
        ratios = ", ".join(f"{speed['ours'] / speed[s]:.2f} × {s}" for s in urls if s != "ours")
        print(f"{name.lower()}: ours gives {ratios} of tokens/s")


def _raw(versions: Sequence[Version], flags: Sequence[str], log: Path):  # type: ignore[no-untyped-def]
    port = free_port()
    modules = [f"{version.name}={version.path}" for version in versions]
    command = [
        sys.executable, "-m", _RAW, "--model", str(bases.resolve("tiny").path),
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port),
        "--enable-lora", "--max-lora-rank", "64", "--dtype", "float32", "--enforce-eager",
        "--kv-cache-memory-bytes", str(1 << 30), *flags, "--lora-modules", *modules,
    ]  # fmt: skip
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    return running(command, f"http://127.0.0.1:{port}", "/health", log)


if __name__ == "__main__":
    main()
