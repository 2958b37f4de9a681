"""Processes that do the registry's verbs at once, or are killed in the midst of them.

Run as a script it is a process without threads. `serve`: reads one JSON command a line, answers
one line. `kill PLACE FOLDER KILLS VERB`: kills a child that does verbs at random, that one most
often, many times over, and prints what the child was told is done. `step PLACE FOLDER VERB`:
kills a child before the first, the second, the third … time that it touches the file system
within one verb.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.errors import AdaptersError
from adapters.retention import Retention
from tests.conftest import BASE

NAME = "support"


def do(house: Retention, folder: Path, verb: str, number: int, alias: str) -> Any:
    """Do one verb; return what it acknowledges."""
    ref = f"{NAME}@v{number}"
    if verb == "publish":
        return house.publish(NAME, folder, base=BASE).number
    if verb == "promote":
        return house.promote(ref, alias).to_version
    if verb == "demote":
        return house.demote(NAME, alias, confirmed=True).from_version
    if verb == "rollback":
        return house.rollback(NAME, alias, confirmed=True).to_version
    if verb == "retire":
        return house.retire(ref).number
    if verb == "restore":
        return house.restore(ref).number
    if verb == "delete":
        return house.delete(ref).version
    if verb == "gc":
        return [usage.version for usage in house.collect(keep_last=number)]
    raise AssertionError(verb)


def serve() -> None:
    """Do what is asked; say what was done, or which error refused it."""
    houses: dict[str, Retention] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        house = houses.setdefault(asked["place"], Retention.open(asked["place"]))
        told: dict[str, Any] = {"verb": asked["verb"], "alias": asked["alias"]}
        try:
            told["done"] = do(
                house, Path(asked["folder"]), asked["verb"], asked["number"], asked["alias"]
            )
        except AdaptersError as error:
            told["refused"] = f"{type(error).__name__}: {error}"
        except Exception:
            told["broken"] = traceback.format_exc()
        print(json.dumps(told), flush=True)


def verbs(chance: random.Random, often: str) -> Iterator[tuple[str, int, str]]:
    """Yield verbs without end: one often, and what it needs to find something to do."""
    kinds = [often] * 10 + ["publish"] * 4 + ["promote"] * 3 + ["delete"]
    kinds += ["demote", "rollback", "retire", "restore", "gc"]
    while True:
        yield chance.choice(kinds), chance.randint(1, 5), chance.choice(["production", "canary"])


def kill(place: str, folder: str, kills: str, often: str = "publish") -> list[dict[str, Any]]:
    """Let a child do verbs, and kill it at a random moment; again and again."""
    told = []
    for turn in range(int(kills)):
        chance = random.Random(turn)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            house = Retention.open(place)
            os.write(writer, b"{}\n")
            latest = max((v.number for v in house.versions(NAME)), default=0) if turn else 0
            for verb, back, alias in verbs(chance, often):
                number = 4 if verb == "gc" else max(1, latest - back + 2)
                try:
                    done = do(house, Path(folder), verb, number, alias)
                except AdaptersError:
                    continue
                latest = done if verb == "publish" else latest
                said = {"verb": verb, "alias": alias, "done": done}
                os.write(writer, json.dumps(said).encode() + b"\n")
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            stream.readline()
            lines = [stream.readline() for _ in range(chance.randint(0, 10))]
            time.sleep(chance.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told += [json.loads(line) for line in [*lines, *stream] if line.endswith(b"\n")]
        damaged = [v.version for v in Retention.open(place).examine() if v.damage]
        assert damaged == [], damaged
    return told


def step(place: str, folder: str, verb: str) -> int:
    """Kill a child at each step of one verb; return how many steps it has."""
    steps = 0
    while True:
        steps += 1
        house = Retention.open(place)
        number = house.publish(NAME, Path(folder), base=BASE).number
        if verb == "demote":
            house.promote(f"{NAME}@v{number}")
        child = os.fork()
        if not child:
            house = Retention.open(place)
            _die_at(steps)
            do(house, Path(folder), verb, number, "production")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        house = Retention.open(place)
        assert [v.version for v in house.examine() if v.damage] == [], f"at step {steps}"
        for alias, pointed in house.aliases(NAME).items():
            assert house.resolve(f"{NAME}@{alias}").number == pointed
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            return steps


def _die_at(steps: int) -> None:
    """Have this process killed when it is about to touch the file system for the n-th time."""
    left = steps

    def count(event: str, _: object) -> None:
        nonlocal left
        if event == "open" or event.startswith(("os.", "fcntl.", "shutil.")):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    scenario, *arguments = sys.argv[1:]
    if scenario == "serve":
        serve()
    else:
        print(json.dumps({"kill": kill, "step": step}[scenario](*arguments)))
