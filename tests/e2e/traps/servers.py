"""Ours and vLLM's own, behind one interface, so that one scenario can be played against both.

vLLM's own is its API server as its documentation has adapters loaded while it runs:
`VLLM_ALLOW_RUNTIME_LORA_UPDATING=1` and the filesystem resolver, with its default places.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from adapters import bases
from adapters.demo.server import free_port, running
from adapters.errors import Rejected
from adapters.files import MANIFEST_FILE, digest, sha256_file
from adapters.housekeeping import Housekeeping
from adapters.registry import Registry
from adapters.types import File, Version
from tests.e2e.shut import ADMIN
from tests.waiting import HANGS_S, wait

BASE = "tiny"
STREAMS = 16
"""Answers at once, so that they take many seconds together."""
_CHAT = "/v1/chat/completions"


class Bitten(Exception):
    """A server fell into the trap. Any other failure is the scenario's own."""


def spared(truth: bool, otherwise: str) -> None:
    """Go on where the trap did not bite.

    Raises:
        Bitten: it did.
    """
    if not truth:
        raise Bitten(otherwise)


Folders = Callable[[int], Path]
"""Sound adapters for the base, by number from 0 to 7."""


class Server(ABC):
    """A running server, asked as its clients and its operators do."""

    def __init__(self, url: str, scratch: Path) -> None:
        self.url, self.scratch = url, scratch
        self.http = httpx.Client(
            base_url=url, timeout=60, headers={"authorization": f"Bearer {ADMIN}"}
        )
        self.stranger = httpx.Client(base_url=url, timeout=60)
        """Has no key."""

    @property
    @abstractmethod
    def outside(self) -> Path:
        """A folder beside the one that adapters are served from."""

    @abstractmethod
    def put(self, name: str, folder: Path) -> None:
        """Have an adapter served under a new name, whatever is wrong with it."""

    @abstractmethod
    def replace(self, name: str, folder: Path) -> None:
        """Have other weights served under the name, without a pause for those who ask."""

    @abstractmethod
    def reload(self, name: str, folder: Path) -> None:
        """The same, in the way that this server has for weights that change often."""

    @abstractmethod
    def withdraw(self, name: str) -> None:
        """Serve it no more."""

    @abstractmethod
    def lose(self, name: str) -> None:
        """Have its files vanish, as when a disk is tidied up."""

    @abstractmethod
    def held(self, name: str) -> bool:
        """Say whether the engine has it in memory."""

    def ask(self, model: str, content: str = "Hello.", **fields: Any) -> httpx.Response:
        asked = {"model": model, "messages": [{"role": "user", "content": content}]}
        asked |= {"max_tokens": 8, "temperature": 0, "ignore_eos": True} | fields
        return self.http.post(_CHAT, json=asked)

    def said(self, model: str, content: str = "Hello.", **fields: Any) -> str:
        reply = self.ask(model, content, **fields)
        assert reply.is_success, reply.text
        return str(reply.json()["choices"][0]["message"]["content"])

    @contextmanager
    def streaming(self, model: str) -> Iterator[None]:
        """Have many answers on their way, which takes long; hangs up after the block.

        Raises:
            TransportError: after the block, where it broke off.
        """
        begun, over = threading.Event(), threading.Event()
        asked = {"model": model, "messages": [{"role": "user", "content": "Tell me a story."}]}
        asked |= {"max_tokens": 400, "ignore_eos": True, "stream": True}
        asked |= {"n": STREAMS, "temperature": 1}

        def read() -> None:
            with self.http.stream("POST", _CHAT, json=asked) as reply:
                for number, _ in enumerate(reply.iter_lines()):
                    if number > 2 * STREAMS:  # the roles came, and a token
                        begun.set()
                    if over.is_set():
                        return

        with ThreadPoolExecutor(1) as beside:
            reading = beside.submit(read)
            try:
                assert begun.wait(HANGS_S)
                yield
            finally:
                over.set()
            reading.result()

    def lives(self) -> bool:
        """Say whether the base answers."""
        try:
            return self.http.get("/health").is_success and self.ask(BASE).is_success
        except httpx.TransportError:
            return False

    def resident_bytes(self) -> int:
        """Return how much memory the process has that takes the requests."""
        return self._metric("process_resident_memory_bytes")

    def running(self) -> int:
        """Return how many answers the engine works on, whatever a client has read of them."""
        return self._metric("vllm:num_requests_running")

    def _metric(self, name: str) -> int:
        (found,) = [
            sample.value
            for family in text_string_to_metric_families(self.http.get("/metrics").text)
            for sample in family.samples
            if sample.name == name
        ]
        return int(found)

    def begin_request(self) -> None:
        """Send half a request; `unanswered` says what became of it."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        self._begun, self._begun_at = socket.create_connection((host, int(port))), time.monotonic()
        head = f"POST {_CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n"
        head += "content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
        self._begun.sendall(head.encode() + b'{"model":')

    def unanswered(self, after_s: float) -> bool:
        """Say whether the half request is still waited for, so long after it was begun."""
        self._begun.settimeout(max(0.1, self._begun_at + after_s - time.monotonic()))
        try:
            return not self._begun.recv(1000).startswith(b"HTTP/1.1 408 ")
        except TimeoutError:
            return True
        finally:
            self._begun.close()


class Ours(Server):
    """`adapters serve` over a registry, with an admin's key."""

    def __init__(self, url: str, registry: Registry, scratch: Path) -> None:
        super().__init__(url, scratch)
        self._registry = registry
        self._base = bases.resolve(BASE).model
        self._home = Path(registry.location)

    @property
    def outside(self) -> Path:
        return self._home / "outside"

    def put(self, name: str, folder: Path) -> None:
        """What publication refuses gets in all the same, by hand: the server is asked, too."""
        try:
            version = self._registry.publish(name, folder, base=self._base)
        except Rejected:
            self._smuggle(name, folder)
            version = self._registry.resolve(name)
        self._wait_for(version)

    def _smuggle(self, name: str, folder: Path) -> None:
        """Forge a version as one can who may write the registry's folder: files and manifest."""
        elsewhere = Registry.open(self.scratch / f"forge-{name}")
        sound = self._registry.resolve("fleet-0").path
        version = elsewhere.publish(name, sound, base=self._base)
        version.path.chmod(0o755)
        for path in version.path.iterdir():
            path.unlink()
        for path in folder.iterdir():
            if path.is_fifo():
                os.mkfifo(version.path / path.name)
            elif path.name != MANIFEST_FILE:
                shutil.copyfile(path, version.path / path.name)
        plain = [path for path in version.path.iterdir() if path.is_file()]
        files = dict(version.manifest.files)  # of a pipe nothing is known
        files |= {path.name: File(sha256_file(path), path.stat().st_size) for path in plain}
        forged = replace(version.manifest, files=files, digest=digest(files))
        (version.path / MANIFEST_FILE).write_text(json.dumps(forged.as_json()))
        os.rename(version.path.parent, self._home / "adapters" / name)

    def _wait_for(self, version: Version) -> None:
        name = version.name
        wait(lambda: self._row(name).get("id") == version.ref, otherwise=lambda: self._row(name))

    def _row(self, ref: str) -> dict[str, Any]:
        row: dict[str, Any] = self.http.get(f"/v1/adapters/{ref}").json()
        return row

    def replace(self, name: str, folder: Path) -> None:
        self._wait_for(self._registry.publish(name, folder, base=self._base))

    reload = replace

    def withdraw(self, name: str) -> None:
        Housekeeping.open(self._registry.location).retire(
            self._registry.resolve(name).ref, reason="a test"
        )
        wait(lambda: not self.held(name))

    def lose(self, name: str) -> None:
        folder = self._registry.resolve(name).path
        folder.chmod(0o755)
        for path in folder.glob("adapter_*"):
            path.unlink()

    def held(self, name: str) -> bool:
        rows = self.http.get("/v1/adapters").json()["data"]
        states = {row["state"] for row in rows if row["id"].startswith(f"{name}@")}
        return bool(states & {"loaded", "resident", "draining"})


class Stock(Server):
    """vLLM's own API server, its own resolver looking into a folder."""

    def __init__(self, url: str, scratch: Path) -> None:
        super().__init__(url, scratch)
        self._folder = scratch / "served"

    @property
    def outside(self) -> Path:
        return self.scratch / "outside"

    def put(self, name: str, folder: Path) -> None:
        self._copy(folder, name)

    def _copy(self, folder: Path, name: str) -> None:
        self.lose(name)
        (self._folder / name).mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_fifo():
                os.mkfifo(self._folder / name / path.name)
            else:
                shutil.copyfile(path, self._folder / name / path.name)

    def _route(self, route: str, **fields: Any) -> None:
        reply = self.http.post(f"/v1/{route}_lora_adapter", json=fields)
        assert reply.is_success, reply.text

    def replace(self, name: str, folder: Path) -> None:
        self._copy(folder, name)
        self._route("unload", lora_name=name)
        self._route("load", lora_name=name, lora_path=str(self._folder / name))

    def reload(self, name: str, folder: Path) -> None:
        self._copy(folder, name)
        path = str(self._folder / name)
        self._route("load", lora_name=name, lora_path=path, load_inplace=True)

    def withdraw(self, name: str) -> None:
        self._route("unload", lora_name=name)

    def lose(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def held(self, name: str) -> bool:
        """Its engine has no names, so this is for a server that was asked for nothing else."""
        reply = self.http.post("/collective_rpc", json={"method": "list_loras"})
        return reply.json()["results"] != ["set()"]


@contextmanager
def stock(scratch: Path, *flags: str, **environment: str) -> Iterator[Stock]:
    """Start vLLM's own server while the block runs."""
    port, served = free_port(), scratch / "served"
    served.mkdir()
    (scratch / "outside").mkdir()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(bases.resolve(BASE).path), "--served-model-name", BASE),
        *("--host", "127.0.0.1", "--port", str(port), "--enable-lora", "--dtype", "float32"),
        *("--enforce-eager", "--kv-cache-memory-bytes", str(1 << 28), *flags),
    ]
    own = os.environ | {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(served),
        "VLLM_API_KEY": ADMIN,
        "VLLM_SERVER_DEV_MODE": "1",  # to look into the engine
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # compiles for seconds at the first logprobs
        **environment,
    }
    url, log = f"http://127.0.0.1:{port}", scratch / "stock.log"
    with running(command, url, "/health", log, environment=own) as url:
        yield Stock(url, scratch)
