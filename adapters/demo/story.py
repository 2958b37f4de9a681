"""The demonstration, read from top to bottom: one function per act.

Uses nothing but what a user has: the `adapters` command, the registry and a running server
over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from adapters.bases import TINY
from adapters.demo.score import Answer, Question, Score, ask, ask_all, score
from adapters.demo.server import ADAPTERS, served
from adapters.demo.task import split
from adapters.errors import AdaptersError
from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Version

NAME = "support"

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
        if scores[full.ref].interval[0] > scores[brief.ref].interval[1]:
            _say(4, f"Promote the winner, {full.ref}, while requests run")
            asyncio.run(_switch(stage, url, full, scores))
        else:
            _say(4, f"No clear winner: the intervals overlap, so {brief.ref} stays in production")
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

    arms = [Arm(f"v{v.number}", v.number, 50) for v in (brief, full)]
    phase = stage.registry.start_experiment(NAME, arms, reason="adapters demo")
    models = [brief.manifest.base.name, brief.ref, full.ref, NAME]
    _say(3, f"{len(stage.test)} held-out messages to each of {', '.join(models)}, mixed; "
            f"{NAME!r} alone is the A/B {phase.experiment}")  # fmt: skip
    try:
        await asyncio.sleep(1)  # servers follow the registry within a second
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            with tqdm(
                total=len(models) * len(stage.test), unit="request", leave=False, disable=None
            ) as bar:
                answers = await ask_all(client, models, stage.test, answered=lambda: _tick(bar))
    finally:
        stage.registry.stop_experiment(NAME, reason="adapters demo is done")
    scores = {model: score(model, _of(answers, model)) for model in models}
    for version in (brief, full):
        arm = [a for a in _of(answers, NAME) if a.served == version.engine_name]
        if arm:
            scores[f"{NAME} → v{version.number}"] = score(f"{NAME} → v{version.number}", arm)
    return scores


async def _switch(stage: Stage, url: str, best: Version, scores: dict[str, Score]) -> None:
    """Move production under load and say from when on the new version answered."""
    from openai import AsyncOpenAI

    await asyncio.sleep(1)  # until the server has seen that the experiment ended
    served_by: list[str] = []
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        async def customer(number: int) -> None:
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline:
                question = stage.test[(number + len(served_by)) % len(stage.test)]
                answer = await ask(client, NAME, question, user=f"customer-{number}")
                served_by.append(answer.served)

        customers = asyncio.gather(*(customer(number) for number in range(8)))
        await asyncio.sleep(2)
        evidence = {model: row.exact_match for model, row in scores.items()}
        stage.registry.promote(best.ref, reason="better in the demo", evidence=evidence)
        await customers
    counts = {name: served_by.count(name) for name in dict.fromkeys(served_by)}
    shares = ", ".join(f"{name} {count}" for name, count in counts.items())
    typer.echo(f"  {len(served_by)} requests, none failed; answered by {shares}")
    if served_by[-1] != best.engine_name:
        raise AdaptersError(
            f"{best.ref} was promoted, but {served_by[-1]} answered last.",
            fix="Run it again; if it stays so, report it with the server's log.",
        )


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
