"""Many adapters at once: ours beside raw vLLM, all servers started once and loaded in turn.

    python -m loadtests.slots                 # about 10 minutes on 2 cores
    python -m loadtests.slots --run-s 3       # a glance; 0: only what a request costs more
    python -m loadtests.slots --json out.json

Raw vLLM runs through its own API server with every adapter given by `--lora-modules`: with the
slots that ours plans, with 4, and with its defaults. It tells
- tokens a second with 1, 4, 16 and 64 adapters asked for evenly and by Zipf (s = 1),
- with 4 slots for 64 adapters and answers of different lengths, tokens a second and what requests
  wait for their first token; also where 4 adapters are asked for all the time, the others rarely,
- what ours adds to a request, one at a time on each in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx

from adapters import bases
from adapters.demo.server import free_port, running, served
from adapters.registry import Registry
from adapters.render import table
from adapters.types import Version
from loadtests import fleet
from loadtests.traffic import Answer, closed_loop

_RAW = "vllm.entrypoints.openai.api_server"
_ADAPTERS = (1, 4, 16, 64)
_IN_FLIGHT = (32, 64)
_WEIGHTS = {
    "uniform": lambda rank: 1.0,
    "Zipf": lambda rank: 1 / rank,
    "4 hot": lambda rank: 1.0 if rank <= 4 else 0.003,
}
"""How often an adapter is asked for, by its rank from 1."""
_RARE = {"uniform": 0, "Zipf": 32, "4 hot": 4}
"""Adapters beyond this rank are the rare ones."""
_WARM_S = 2.0
_OURS, _RAW_SAME, _RAW_DEFAULT = "ours", "vLLM, same slots", "vLLM, defaults"
_OURS_FOUR, _RAW_FOUR = "ours, 4 slots", "vLLM, 4 slots"


def main() -> None:
    """Start the servers, load each in turn, print tables and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run-s", type=float, default=8, help="of each throughput; default 8")
    parser.add_argument("--wait-s", type=float, default=16, help="with 4 slots; default 16")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer; default 32")
    parser.add_argument("--pairs", type=int, default=300, help="requests on each; default 300")
    parser.add_argument("--json", type=Path, help="write all of it there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapters-slots-") as scratch:
        home = Path(scratch)
        versions = fleet.publish(Registry.open(home), [_name(n) for n in range(max(_ADAPTERS))])
        with ExitStack() as stack:  # alone: a millisecond is less than what other servers disturb
            ours, slots = _ours(stack, home)
            urls = {
                _OURS: ours,
                _RAW_SAME: stack.enter_context(_raw(versions, slots.split(), home)),
            }
            _ask_each(urls)
            added = {m: _added_ms(urls, m, asked.pairs) for m in ("tiny", _name(0))}
            _print_added(added)
        if not asked.run_s:
            return
        with ExitStack() as stack:
            urls = _servers(stack, home, versions, slots.split())
            _ask_each(urls)
            found: dict[str, Any] = {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "slots": slots,
                "added_ms": added,
                "throughput": (throughputs := _throughputs(urls, asked)),
            }
            _print_throughputs(throughputs)
            found["four_slots"] = _four_slots(urls, asked)
            _print_four_slots(found["four_slots"])
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _ours(stack: ExitStack, home: Path) -> tuple[str, str]:
    """Start ours; return its URL and the flags of the slots that it planned."""
    log = home / "ours.log"
    url = stack.enter_context(served(["--base", "tiny", "--registry", str(home)], log))
    line = next(line for line in log.read_text().splitlines() if "Slots: " in line)
    return url, line.partition("Slots: ")[2].partition(" (")[0]


def _servers(
    stack: ExitStack, home: Path, versions: Sequence[Version], planned: Sequence[str]
) -> dict[str, str]:
    """Start all five; return their URLs."""
    four = ["--max-loras=4", "--max-cpu-loras=80", "--max-lora-rank=64"]
    start = stack.enter_context
    ours, _ = _ours(stack, home)
    return {
        _OURS: ours,
        _RAW_SAME: start(_raw(versions, planned, home)),
        _RAW_DEFAULT: start(_raw(versions, [], home)),
        _OURS_FOUR: start(
            served(["--base", "tiny", "--registry", str(home), "--", *four], home / "four.log")
        ),
        _RAW_FOUR: start(_raw(versions, four, home)),
    }


def _raw(
    versions: Sequence[Version], flags: Sequence[str], home: Path
) -> AbstractContextManager[str]:
    port = free_port()
    log = home / f"raw-{port}.log"
    command = [
        sys.executable, "-m", _RAW, "--model", str(bases.resolve("tiny").path),
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port),
        "--enable-lora", "--dtype", "float32", "--enforce-eager", "--disable-uvicorn-access-log",
        "--kv-cache-memory-bytes", str(1 << 30), *flags,
        "--lora-modules", *(f"{version.name}={version.path}" for version in versions),
    ]  # fmt: skip
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    return running(command, f"http://127.0.0.1:{port}", "/health", log)


def _ask_each(urls: dict[str, str]) -> None:
    """Have every adapter loaded, and everything else done that is done once."""
    with httpx.Client(timeout=60) as client:
        for url in urls.values():
            for number in range(max(_ADAPTERS)):
                content = {"model": _name(number), "prompt": "Hello", "max_tokens": 1}
                client.post(f"{url}/v1/completions", json=content).raise_for_status()


def _name(number: int) -> str:
    return f"fleet-{number}"


def _added_ms(urls: dict[str, str], model: str, pairs: int) -> list[float]:
    """Return what ours took longer, in ms, pair by pair, the first of each in turn."""
    content = {"model": model, "prompt": "Name three birds.", "max_tokens": 1, "temperature": 0}
    differences = []
    with httpx.Client(timeout=60) as client:

        def took_ms(server: str) -> float:
            began = time.perf_counter()
            client.post(f"{urls[server]}/v1/completions", json=content).raise_for_status()
            return 1e3 * (time.perf_counter() - began)

        for pair in range(-20, pairs):  # the first warm up
            order = (_OURS, _RAW_SAME) if pair % 2 else (_RAW_SAME, _OURS)
            took = {server: took_ms(server) for server in order}
            if pair >= 0:
                differences.append(took[_OURS] - took[_RAW_SAME])
    return differences


def _print_added(added: dict[str, list[float]]) -> None:
    for model, differences in added.items():
        quarter, middle, three = statistics.quantiles(differences, n=4)
        said = f"p50 {middle:+.2f} ms (p25 {quarter:+.2f}, p75 {three:+.2f})"
        print(f"a request for {model}: ours adds {said} to vLLM's, same slots")


def _load(
    url: str, adapters: int, traffic: str, in_flight: int, run_s: float, tokens: tuple[int, int]
) -> tuple[list[Answer], float]:
    models = [_name(number) for number in range(adapters)]
    weights = [_WEIGHTS[traffic](rank) for rank in range(1, adapters + 1)]
    return asyncio.run(
        closed_loop(
            url, models, weights, in_flight=in_flight, warm_s=_WARM_S, run_s=run_s, tokens=tokens
        )
    )


def _throughputs(urls: dict[str, str], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Load the three servers that differ in slots; the raw ones at both ends only."""
    rows, same_length = [], (asked.tokens, asked.tokens)
    for in_flight in _IN_FLIGHT:
        for adapters in _ADAPTERS:
            for traffic in ("uniform", "Zipf") if adapters > 1 else ("uniform",):
                ends = adapters in (_ADAPTERS[0], _ADAPTERS[-1])
                servers = (_OURS, _RAW_SAME, _RAW_DEFAULT) if ends else (_OURS,)
                speed = {
                    server: _load(
                        urls[server], adapters, traffic, in_flight, asked.run_s, same_length
                    )[1]
                    for server in servers
                }
                rows.append(
                    {"in_flight": in_flight, "adapters": adapters, "traffic": traffic}
                    | {"tokens_a_second": speed}
                )
    return rows


def _print_throughputs(rows: list[dict[str, Any]]) -> None:
    alone = {row["in_flight"]: row["tokens_a_second"] for row in rows if row["adapters"] == 1}
    lines = []
    for row in rows:
        speed, one = row["tokens_a_second"], alone[row["in_flight"]]
        ours = speed[_OURS]
        ratios = [ours / one[_OURS], ours / one[_RAW_SAME]]
        ratios += [ours / speed[server] if server in speed else None for server in one][1:]
        lines.append(
            [row["in_flight"], row["adapters"], row["traffic"]]
            + [f"{speed[server]:.0f}" if server in speed else "" for server in one]
            + ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        )
    columns = ["in flight", "adapters", "traffic", *alone[_IN_FLIGHT[0]]]
    columns += ["ours / its 1", "ours / vLLM's 1", "ours / same", "ours / defaults"]
    print(table(columns, lines))


def _four_slots(urls: dict[str, str], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Ask both servers with 4 slots for all adapters."""
    rows, lengths = [], (asked.tokens // 4, 2 * asked.tokens - asked.tokens // 4)
    for in_flight in _IN_FLIGHT:
        for traffic in _WEIGHTS:
            for server in (_OURS_FOUR, _RAW_FOUR):
                answers, speed = _load(
                    urls[server], max(_ADAPTERS), traffic, in_flight, asked.wait_s, lengths
                )
                rows.append(
                    {"in_flight": in_flight, "traffic": traffic, "server": server}
                    | {"tokens_a_second": speed}
                    | _waits(answers, _RARE[traffic])
                )
    return rows


def _waits(answers: list[Answer], common: int) -> dict[str, float]:
    """Return waits for a first token in s; of one that came to none, until the run's end."""
    ended = max(answer.first or answer.asked for answer in answers)
    waits = [(answer.model, (answer.first or ended) - answer.asked) for answer in answers]
    rare = {_name(number) for number in range(common, max(_ADAPTERS))}
    every = sorted(wait for _, wait in waits)
    return {
        "p50_s": statistics.median(every),
        "p95_s": every[int(0.95 * len(every))],
        "worst_s": every[-1],
        "rare_worst_s": max((wait for model, wait in waits if model in rare), default=math.nan),
    }


def _print_four_slots(rows: list[dict[str, Any]]) -> None:
    columns = ["in flight", "traffic", "server", "tokens/s", "first token p50 s", "p95 s"]
    columns += ["worst s", "of a rare one s"]
    waits = ("p50_s", "p95_s", "worst_s", "rare_worst_s")
    print(
        table(
            columns,
            [
                [row["in_flight"], row["traffic"], row["server"], f"{row['tokens_a_second']:.0f}"]
                + [f"{row[wait]:.2f}" for wait in waits]
                for row in rows
            ],
        )
    )
    for ours, raw in zip(rows[::2], rows[1::2], strict=True):
        print(
            f"4 slots, {ours['in_flight']} in flight, {ours['traffic']}: ours gives "
            f"{ours['tokens_a_second'] / raw['tokens_a_second']:.2f} of vLLM's tokens/s; a rare "
            f"adapter's worst wait is {ours['rare_worst_s'] / raw['rare_worst_s']:.2f} of vLLM's"
        )


if __name__ == "__main__":
    main()
