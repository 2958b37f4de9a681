"""The trainer against its own estimate, and against TRL and PEFT as a user writes them.

    python -m loadtests.trainer memory        estimated against measured peaks, three sizes of base
    python -m loadtests.trainer throughput    beside a plain TRL + PEFT script: speed, losses, peak
    python -m loadtests.trainer gpu           the same in the shape of Llama-3.1-8B, packed

Nothing is downloaded: bases have random weights. Every run is a process of its own, and the two
sides take turns, so that a machine that others use slows down both; compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from adapters.render import table
from loadtests.random_base import SHAPES, write, write_rows
from loadtests.trainer_run import Measured, Settings

_PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
_WARM_UP_STEPS = 2


def main() -> None:
    """Measure what was asked for; print a table, write all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["memory", "throughput", "gpu"])
    parser.add_argument("--shapes", nargs="+", choices=["tiny", *SHAPES])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="default: trainer-WHAT.json")
    asked = parser.parse_args()
    given = {k: v for k in ("steps", "batch", "length") if (v := getattr(asked, k)) is not None}
    with tempfile.TemporaryDirectory(prefix="adapters-trainer-") as scratch:
        folder = Path(scratch)
        if asked.what == "memory":
            found = memory(folder, asked.shapes or ["tiny", "llama-30m", "qwen3-118m"], given)
        elif asked.what == "throughput":
            found = beside_trl(folder, (asked.shapes or ["llama-30m"])[0], given, asked.rounds)
        else:
            packed = {"steps": 12, "batch": 2, "length": 2048, "packing": True, **given}
            packed["gradient_checkpointing"] = True
            found = beside_trl(folder, (asked.shapes or ["llama-3.1-8b"])[0], packed, asked.rounds)
    out = asked.out or Path(f"trainer-{asked.what}.json")
    out.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n")
    print(f"{out} has each step of it")


def memory(folder: Path, shapes: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Train LoRA and QLoRA on each base; compare the peaks with what preflight said."""
    runs, rows = [], []
    for shape in shapes:
        base = write(shape, folder / shape)
        for tuner in ("qlora", "lora"):
            options = {"steps": 3, **given, "tuner": tuner}
            settings, measured = _run("ours", base, folder, options)
            expected = measured.estimate["peak_bytes"]
            off = expected / measured.peak_bytes - 1
            runs.append(
                {"shape": shape, **asdict(settings), **asdict(measured), "estimate_off": off}
            )
            parts = (expected, measured.peak_bytes, measured.base_bytes)
            rows.append((shape, tuner, *(f"{part / 1e6:,.0f}" for part in parts), f"{off:+.1%}"))
            print(*rows[-1], file=sys.stderr)
    head = ["base", "tuner", "estimated MB", "measured MB", "base MB", "off"]
    print(table(head, rows))
    return {"runs": runs, "largest_error": max(abs(run["estimate_off"]) for run in runs)}


def beside_trl(folder: Path, shape: str, given: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Train by turns with ours and with a plain script; compare speed, losses and peaks."""
    base = write(shape, folder / shape)
    taken: dict[str, list[Measured]] = {"ours": [], "plain": []}
    for number in range(rounds):
        for how in ("ours", "plain") if number % 2 else ("plain", "ours"):
            settings, measured = _run(how, base, folder, {"steps": 10, **given, "rehearse": False})
            taken[how].append(measured)
            print(f"round {number + 1}, {how}: {_speed(measured):,.0f} tokens/s", file=sys.stderr)
    ours, plain = taken["ours"], taken["plain"]
    ratios = [_speed(a) / _speed(b) for a, b in zip(ours, plain, strict=True)]
    differences = [abs(a - b) for a, b in zip(ours[0].losses, plain[0].losses, strict=True)]
    found = {
        "shape": shape,
        "settings": asdict(settings),
        "throughput_ratio": median(ratios),
        "throughput_ratios": ratios,
        "cpu_time_ratio": _cpu(plain) / _cpu(ours),
        "largest_loss_difference": max(differences),
        "peak_ratio": max(m.peak_bytes for m in ours) / max(m.peak_bytes for m in plain),
        "rounds": {how: [asdict(m) for m in measured] for how, measured in taken.items()},
    }
    rows = [
        (
            how,
            f"{median(map(_speed, measured)):,.0f}",
            f"{max(m.peak_bytes for m in measured) / 1e6:,.0f}",
            f"{measured[0].losses[0]:.4f} … {measured[0].losses[-1]:.4f}",
        )
        for how, measured in taken.items()
    ]
    print(table(["", "tokens/s", "peak MB", "loss"], rows))
    print(
        f"ours / plain: {found['throughput_ratio']:.3f} of the throughput (by round: "
        f"{', '.join(f'{ratio:.3f}' for ratio in ratios)}), {found['cpu_time_ratio']:.3f} of it by "
        f"processor time, {found['peak_ratio']:.3f} of the peak; losses differ by at most "
        f"{max(differences):.1g}"
    )
    return found


def machine() -> dict[str, Any]:
    """Return what it ran on, and by which versions."""
    words = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    cpu = next((value.strip() for key, _, value in words if key.strip() == "model name"), "")
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu": cpu or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _run(how: str, base: Path, folder: Path, options: dict[str, Any]) -> tuple[Settings, Measured]:
    settings = Settings(how, str(base), str(folder / "rows.jsonl"), **options)
    words = settings.length // 8 if settings.packing else settings.length
    needed = settings.steps * settings.batch * (8 if settings.packing else 1)
    write_rows(Path(settings.rows), needed, words)
    told = folder / "run.json"
    told.write_text(json.dumps(asdict(settings)))
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.trainer_run", str(told)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{how} failed:\n{done.stderr[-2000:]}")
    return settings, Measured(**json.loads(told.read_text()))


def _cpu(runs: list[Measured]) -> float:
    """Return the processor seconds of a step: the median of all after warm-up."""
    return median(s for run in runs for s in run.cpu_seconds[_WARM_UP_STEPS:] or run.cpu_seconds)


def _speed(measured: Measured) -> float:
    """Return tokens a second, by the median step after warm-up."""
    steps = measured.seconds[_WARM_UP_STEPS:] or measured.seconds
    return measured.tokens / len(measured.seconds) / median(steps)


if __name__ == "__main__":
    main()
