"""The demonstration, read from top to bottom: one function per act.

Uses nothing but what a user has: the `adapters` command, the registry and a running server
over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import typer

from adapters.bases import TINY
from adapters.demo.score import Answer, Question, Score, ask, ask_all, score, tell
from adapters.demo.server import ADAPTERS, served
from adapters.demo.task import split
from adapters.designs import read_design
from adapters.errors import AdaptersError
from adapters.registry import Registry
from adapters.types import Version

NAME = "support"
_PATIENCE_S = 90.0
"""For how long customers ask, where neither version proves better."""
_AFTER = 40
"""Requests after the decision, which the winner should answer."""

# What the two versions are trained with: the first briefly, the second until it knows the task.
_BRIEF = {TINY: ("--max-steps", "60"), "": ("--max-steps", "8")}
_FULL = {TINY: ("--num-train-epochs", "3"), "": ("--num-train-epochs", "1")}
_RECIPE = {
    TINY: (
        *("--r", "32", "--lora-alpha", "64", "--learning-rate", "3e-3"),
        *("--per-device-train-batch-size", "16", "--max-length", "256"),
    ),
    "": ("--r", "16", "--lora-alpha", "32", "--learning-rate", "2e-4"),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demonstration plays."""

    home: Path
    base: str
    train: Path
    test: Sequence[Question]

    @property
    def registry(self) -> Registry:
        return Registry.open(self.home)


def run(home: Path, base: str, *, train_rows: int, test_rows: int) -> None:
    """Play all acts in the registry at `home`, which is made where it does not exist.

    Ends the server it starts, also on Ctrl-C or failure. Versions stay: each run adds two.

    Raises:
        AdaptersError: an act failed; the message says which and why.
    """
    began = time.monotonic()
    stage = _prepare(home, base, train_rows, test_rows)
    _say(1, f"Two versions of {NAME!r} on {base}: one trained briefly, one fully")
    brief = _train(stage, _BRIEF)
    full = _train(stage, _FULL)
    stage.registry.promote(brief.ref, reason="the first one")
    typer.echo(f"  {NAME}@production → v{brief.number}")

    _say(2, "One vLLM process serves the base and both versions")
    with served(["--base", base, "--registry", str(home)], home / "server.log") as url:
        typer.echo(f"  ready after {time.monotonic() - began:.0f} s on {url}")
        scores = asyncio.run(_compare(stage, url, brief, full))
        typer.echo("\n" + _table(scores) + "\n")
        _say(4, f"Customers ask {NAME!r} and say whether it helped; the server looks, and decides")
        asyncio.run(_decide(stage, url, brief, full))
    _epilogue(stage, time.monotonic() - began)


def _prepare(home: Path, base: str, train_rows: int, test_rows: int) -> Stage:
    train, test = split(train_rows, test_rows)
    home.mkdir(parents=True, exist_ok=True)
    for path, rows in ((home / "train.jsonl", train), (home / "test.jsonl", test)):
        path.write_text("".join(json.dumps(row.row()) + "\n" for row in rows))
    return Stage(home, base, home / "train.jsonl", [row.question() for row in test])


def _train(stage: Stage, length: Mapping[str, tuple[str, ...]]) -> Version:
    flags = [*_RECIPE.get(stage.base, _RECIPE[""]), *length.get(stage.base, length[""])]
    command = ["train", str(stage.train), "--base", stage.base, "--name", NAME, *flags]
    typer.echo(f"  $ adapters {' '.join(command)}")
    process = subprocess.Popen(
        [*ADAPTERS, *command, "--registry", str(stage.home), "--json"], stdout=subprocess.PIPE
    )
    try:
        printed, _ = process.communicate()
    except BaseException:  # Ctrl-C: it may clean up, as it would alone
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise AdaptersError(
            f"Training failed with exit code {process.returncode}.",
            fix="Its own message is above.",
        )
    version = stage.registry.resolve(json.loads(printed)["engine_name"])
    losses = ", ".join(
        f"{key} {version.manifest.metrics[key]:.3f}"
        for key in ("train_loss", "eval_loss")
        if key in version.manifest.metrics
    )
    typer.echo(f"  {version.engine_name}: {losses}")
    return version


async def _compare(stage: Stage, url: str, brief: Version, full: Version) -> dict[str, Score]:
    from openai import AsyncOpenAI
    from tqdm import tqdm

    models = [brief.manifest.base.name, brief.ref, full.ref]
    _say(3, f"{len(stage.test)} held-out messages to each of {', '.join(models)}, mixed")
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with tqdm(
            total=len(models) * len(stage.test), unit="request", leave=False, disable=None
        ) as bar:
            answers = await ask_all(client, models, stage.test, answered=lambda: _tick(bar))
    return {model: score(model, _of(answers, model)) for model in models}


async def _decide(stage: Stage, url: str, brief: Version, full: Version) -> None:
    """Run an experiment that promotes its winner by itself, under customers who know nothing."""
    from openai import AsyncOpenAI

    said = {
        "arms": [f"v{brief.number}", f"v{full.number}"],
        "primary": "solved",
        "guardrails": ["error<=5%"],
        "method": "exact",
        "auto_promote": True,
    }
    arms, design = read_design(NAME, said)
    stage.registry.start_experiment(NAME, arms, design=design, reason="adapters demo")
    typer.echo(
        f"  $ adapters ab start {NAME} --arm {arms[0].name} --arm {arms[1].name} --primary solved"
        " --guardrail 'error<=5%' --method exact --auto-promote"
    )
    served_by: list[str] = []
    numbers = count()
    deadline = time.monotonic() + _PATIENCE_S
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        async def customer() -> None:
            while time.monotonic() < deadline and not (over and len(served_by) > over[0] + _AFTER):
                number = next(numbers)
                question = stage.test[number % len(stage.test)]
                answer = await ask(client, NAME, question, user=f"customer-{number}")
                served_by.append(answer.served)
                if answer.assignment:
                    await tell(client, answer)

        async def watch() -> None:
            while stage.registry.experiment(NAME) and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            over.append(len(served_by))

        over: list[int] = []
        await asyncio.gather(watch(), *(customer() for _ in range(8)))
    if stage.registry.experiment(NAME):
        stage.registry.stop_experiment(NAME, reason="adapters demo is done")
    typer.echo("\n" + _report(stage))
    counts = {name: served_by.count(name) for name in dict.fromkeys(served_by)}
    shares = ", ".join(f"{name} {number}" for name, number in counts.items())
    typer.echo(f"  {len(served_by)} requests, none failed; answered by {shares}")
    production = stage.registry.resolve(NAME)
    if production == brief:
        typer.echo(f"  No clear winner in {_PATIENCE_S:.0f} s, so {brief.ref} stays in production")
    elif served_by[-1] != production.engine_name:
        raise AdaptersError(
            f"{production.ref} was promoted, but {served_by[-1]} answered last.",
            fix="Run it again; if it stays so, report it with the server's log.",
        )


def _report(stage: Stage) -> str:
    """Return what `adapters ab report` says now, of the store that the server wrote to."""
    own = {**os.environ, "ADAPTERS_HOME": str(stage.home), "ADAPTERS_REGISTRY": str(stage.home)}
    command = [*ADAPTERS, "ab", "report", NAME]
    return subprocess.run(command, env=own, check=True, capture_output=True, text=True).stdout


def _epilogue(stage: Stage, took_s: float) -> None:
    production = stage.registry.resolve(NAME)
    _say(5, f"Done in {took_s:.0f} s. The server is gone, everything else is yours")
    typer.echo(f"""  registry   {stage.home}
  production {production.path}
  server log {stage.home / "server.log"}

  export ADAPTERS_HOME={stage.home}
  adapters list
  adapters show {NAME}@production
  adapters serve --base {stage.base}
  adapters rollback {NAME}""")


def _table(scores: dict[str, Score]) -> str:
    from adapters.render import table

    headers = ["model", "requests", "exact match", "95 % interval", "valid JSON",
               "TTFT p50 ms", "p95 ms", "tokens/s"]  # fmt: skip
    rows = [
        (
            row.model,
            row.requests,
            f"{row.exact_match:.1%}",
            f"{row.interval[0]:.1%} to {row.interval[1]:.1%}",
            f"{row.valid_json:.1%}",
            f"{row.ttft_p50_ms:.0f}",
            f"{row.ttft_p95_ms:.0f}",
            f"{row.tokens_per_s:.0f}",
        )
        for row in scores.values()
    ]
    return table(headers, rows)


def _of(answers: Sequence[Answer], model: str) -> list[Answer]:
    return [answer for answer in answers if answer.model == model]


def _tick(bar: object) -> None:
    bar.update()  # type: ignore[attr-defined]


def _say(number: int, text: str) -> None:
    typer.echo(typer.style(f"\n{number}. {text}", bold=True))
