"""The traps: what goes wrong with adapters on vLLM 0.32, each played as it happens to people.

A scenario raises `Bitten` where the trap bites. It brings names of its own, so that scenarios can
follow one another on one server; those in `DEADLY` leave none behind where they bite.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy
from safetensors.numpy import load_file, save_file

from adapters.files import CANARY_FILE, CONFIG_FILE, WEIGHTS_FILE
from tests.e2e.traps.servers import BASE, Bitten, Folders, Server, spared

Scenario = Callable[[Server, Folders], None]
LONG = "Tell me about the weather in Spain and in France, day by day. " * 12


def _altered(folder: Path, target: Path, alter: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Copy an adapter with other tensors."""
    shutil.copytree(folder, target)
    target.chmod(0o755)
    for told in ("manifest.json", CANARY_FILE):  # of the tensors that it had
        (target / told).unlink(missing_ok=True)
    (target / WEIGHTS_FILE).unlink()
    weights = alter(load_file(folder / WEIGHTS_FILE))
    save_file(weights, target / WEIGHTS_FILE, metadata={"format": "pt"})
    return target


def routes_without_a_key(server: Server, folders: Folders) -> None:
    """The key guards some paths only: others load, unload and infer for anybody."""
    loaded = server.stranger.post(
        "/adapters", json={"name": "burglar", "src": str(folders(0))}
    ).is_success
    asked = {"model": BASE, "prompt": "Hello", "max_tokens": 1}
    inferred = server.stranger.post("/invocations", json=asked).is_success
    with suppress(httpx.HTTPError):
        server.stranger.delete("/adapters/burglar")
    spared(not loaded, "anybody loads an adapter")
    spared(not inferred, "anybody infers")


def routes_that_load_any_folder(server: Server, folders: Folders) -> None:
    """Whoever may ask for an answer may have any folder of the machine loaded, of any base."""
    strange = server.outside / "strange"
    shutil.copytree(folders(1), strange)
    strange.chmod(0o755)
    config = strange / CONFIG_FILE
    content = json.loads(config.read_text()) | {"base_model_name_or_path": "another/base"}
    config.unlink()
    config.write_text(json.dumps(content))
    server.http.post(
        "/v1/load_lora_adapter", json={"lora_name": "strange", "lora_path": str(strange)}
    )
    spared(not server.ask("strange").is_success, "it answers from there, as if it fitted")


def names_that_are_paths(server: Server, folders: Folders) -> None:
    """A model's name is joined to the folder of adapters, so it leads out of it."""
    evil = server.outside / "evil"
    shutil.copytree(folders(1), evil)
    for model in (f"../{server.outside.name}/evil", str(evil)):
        spared(not server.ask(model).is_success, f"it serves {model}")


def names_that_are_never_forgotten(server: Server, folders: Folders) -> None:
    """Each name that was ever asked for is kept, whether or not there is such an adapter."""

    def flood(names: int) -> None:
        for number in range(names):
            assert server.ask(f"{number:04d}" + "x" * size).is_client_error

    size = 100_000
    flood(20)  # what the first ones take, they take once
    before = server.resident_bytes()
    flood(300)
    grown = server.resident_bytes() - before
    spared(grown < 300 * size / 2, f"its memory grew by {grown >> 20} MiB")


def cards_of_models(server: Server, folders: Folders) -> None:
    """Lists of models show where files lie, and one of them cannot be asked for."""
    server.put("carded", folders(2))
    server.said("carded")
    listed = server.http.get("/v1/models")
    spared(str(server.scratch) not in listed.text, "it shows paths")
    (name, *_) = [card["id"] for card in listed.json()["data"] if "carded" in card["id"]]
    spared(server.http.get(f"/v1/models/{name}").is_success, "no such path for one model")


def a_refusal_clients_cannot_read(server: Server, folders: Folders) -> None:
    """Without a key the answer is no error as OpenAI has it."""
    reply = server.stranger.get("/v1/models")
    assert reply.status_code == 401
    spared(isinstance(reply.json()["error"], dict), reply.text)


def weights_that_nobody_applies(server: Server, folders: Folders) -> None:
    """Tensors under keys that the base has no module for are dropped, and the base answers."""

    def elsewhere(weights: dict[str, Any]) -> dict[str, Any]:
        return {key.replace("model.layers", "decoder.blocks"): w for key, w in weights.items()}

    server.put("elsewhere", _altered(folders(3), server.scratch / "elsewhere", elsewhere))
    spared(not server.ask("elsewhere").is_success, "it answers as the base does")


def layers_beyond_the_base(server: Server, folders: Folders) -> None:
    """So are those of layers the base does not have."""

    def deeper(weights: dict[str, Any]) -> dict[str, Any]:
        more = {k.replace("layers.0.", "layers.999."): w for k, w in weights.items()}
        return weights | more

    server.put("deeper", _altered(folders(3), server.scratch / "deeper", deeper))
    spared(not server.ask("deeper").is_success, "it answers")


def weights_of_a_smaller_base(server: Server, folders: Folders) -> None:
    """Weights for a smaller hidden size are filled up with zeros, and answer garbage."""

    def smaller(weights: dict[str, Any]) -> dict[str, Any]:
        return {
            key: w[:, : w.shape[1] // 2] if "lora_A" in key else w[: w.shape[0] // 2]
            for key, w in weights.items()
        }

    server.put("smaller", _altered(folders(3), server.scratch / "smaller", smaller))
    spared(not server.ask("smaller").is_success, "it answers garbage")


def weights_that_are_no_numbers(server: Server, folders: Folders) -> None:
    """One adapter of NaN spoils the answers of others."""

    def spoilt(weights: dict[str, Any]) -> dict[str, Any]:
        return {key: numpy.full_like(w, numpy.nan) for key, w in weights.items()}

    before = server.said(BASE, LONG, logprobs=True)
    server.put("spoilt", _altered(folders(3), server.scratch / "spoilt", spoilt))
    server.ask("spoilt", LONG)
    for _ in range(3):
        after = server.ask(BASE, LONG, logprobs=True)
        spared(after.is_success, f"the base fails: {after.text}")
        spared(before == after.json()["choices"][0]["message"]["content"], "the base errs")


def a_pipe_for_a_file(server: Server, folders: Folders) -> None:
    """Whoever opens a pipe waits for the other side, and with it everybody else."""
    pipe = server.scratch / "piped"
    shutil.copytree(folders(3), pipe)
    pipe.chmod(0o755)
    (pipe / CONFIG_FILE).unlink()
    os.mkfifo(pipe / CONFIG_FILE)
    server.put("piped", pipe)
    waiting = threading.Thread(target=server.ask, args=("piped",), daemon=True)
    waiting.start()
    answered = True
    while answered and waiting.is_alive():
        try:
            answered = server.http.get("/health", timeout=10).is_success
        except httpx.TimeoutException:
            answered = False
    for path in server.scratch.rglob(CONFIG_FILE):
        if path.is_fifo():
            with suppress(OSError):  # nobody waits at it
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    waiting.join(60)
    spared(answered, "nobody is answered")


def the_base_beside_an_adapter(server: Server, folders: Folders) -> None:
    """On a CPU, in a batch with others, the base answers with the last slot's adapter."""
    server.put("beside", folders(4))
    server.said("beside")
    alone = server.said(BASE, max_tokens=24)
    with server.streaming("beside"):
        spared(server.said(BASE, max_tokens=24) == alone, "the base answers as an adapter")


def other_weights_under_one_name(server: Server, folders: Folders) -> None:
    """The prefix cache goes by name and path, so new weights continue what the old ones read."""
    server.put("fresh", folders(6))
    right = server.said("fresh", LONG, max_tokens=24)
    server.put("reused", folders(5))
    wrong = server.said("reused", LONG, max_tokens=24)
    assert wrong != right
    server.replace("reused", folders(6))
    spared(server.said("reused", LONG, max_tokens=24) == right, "its cache is that of the others")


def what_was_withdrawn_stays(server: Server, folders: Folders) -> None:
    """Unloading forgets a name; the engine is never told."""
    server.put("withdrawn", folders(2))
    server.said("withdrawn")
    assert server.held("withdrawn")
    server.withdraw("withdrawn")
    spared(not server.held("withdrawn"), "the engine has it still")


def few_places(server: Server, folders: Folders) -> None:
    """One slot by default: as soon as there are two adapters they take turns."""
    for number in range(4):
        server.put(f"many-{number}", folders(number))
        server.said(f"many-{number}")
    with server.streaming("many-0"):
        try:
            for number in range(1, 4):
                server.said(f"many-{number}", max_tokens=1)
        except httpx.ReadTimeout as error:  # the stream goes on for longer than the client waits
            raise Bitten("they wait for one another") from error
        spared(server.running() > 0, "they wait for one another")


def a_request_that_is_half_sent(server: Server, folders: Folders) -> None:
    """Half of a request is waited for, for ever. It was sent when the server was first used."""
    spared(not server.unanswered(after_s=60), "it is still waited for")


def files_that_vanish(server: Server, folders: Folders) -> None:
    """Evicted, files gone, asked for again: the engine reads them in a step, and dies of it."""
    names = ("vanishing", "pushing-1", "pushing-2")
    for number, name in enumerate(names):
        server.put(name, folders(number))
        server.said(name)
    server.lose(names[0])
    with suppress(httpx.TransportError):
        server.ask(names[0])
    spared(server.lives(), "the engine died")
    server.said(names[1])


def files_that_vanish_after_a_reload(server: Server, folders: Folders) -> None:
    """Once reloaded in place it is read again at every step, so no eviction is needed."""
    server.put("reloaded", folders(0))
    server.said("reloaded")
    server.reload("reloaded", folders(1))
    server.said("reloaded")
    server.lose("reloaded")
    with suppress(httpx.TransportError):
        server.ask("reloaded")
    spared(server.lives(), "the engine died")


def a_name_given_anew_under_a_stream(server: Server, folders: Folders) -> None:
    """Two that bear one name in one batch count as one, and the other has no slot."""
    server.put("renewed", folders(0))
    server.said("renewed")
    server.put("another", folders(2))
    with suppress(httpx.TransportError), server.streaming("renewed"):
        server.replace("renewed", folders(1))
        server.ask("another")
        server.ask("renewed")
    spared(server.lives(), "the engine died")


def logprobs_of_a_prompt(server: Server, folders: Folders) -> None:
    """What evaluations ask for (`echo` with `logprobs`) ends a CPU's engine, once batched."""
    server.put("scored", folders(0))
    server.said("scored")
    asked = {"prompt": ["One two three.", "Four five."], "max_tokens": 1, "logprobs": 1}

    def score(model: str) -> None:
        with suppress(httpx.TransportError):
            server.http.post("/v1/completions", json=asked | {"model": model, "echo": True})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(score, ("scored", BASE, "scored", BASE)))
    spared(server.lives(), "the engine died")


HARMFUL = [
    routes_without_a_key,
    routes_that_load_any_folder,
    names_that_are_paths,
    names_that_are_never_forgotten,
    cards_of_models,
    a_refusal_clients_cannot_read,
    weights_that_nobody_applies,
    layers_beyond_the_base,
    weights_of_a_smaller_base,
    weights_that_are_no_numbers,
    a_pipe_for_a_file,
    the_base_beside_an_adapter,
    other_weights_under_one_name,
    what_was_withdrawn_stays,
]
"""vLLM goes on after them."""
DEADLY = [
    files_that_vanish,
    files_that_vanish_after_a_reload,
    a_name_given_anew_under_a_stream,
    logprobs_of_a_prompt,
]
"""vLLM ends, and the base with it."""
