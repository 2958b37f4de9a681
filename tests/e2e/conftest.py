"""Two real servers for the whole run, over a registry of genuine adapters, and what PEFT says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import AsyncOpenAI, OpenAI

from adapters import bases
from adapters.demo.server import served
from adapters.keys import KeyJournal
from adapters.registry import Registry
from adapters.types import Version
from loadtests import fleet
from tests.e2e.shut import ADMIN, FEW_PLACES, HF_TOKEN, Shut

FLEET = [f"fleet-{number}" for number in range(8)]
MAX_TOKENS = 24

Reference = Callable[[Version | None, str], str]
"""Greedy answer of transformers + PEFT to a user's message: by a version, or by the base."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests, so that `pytest -m 'not e2e'` leaves the server out."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="session")
def registry(home: Path) -> Registry:
    """`fleet-0` … `fleet-7`, and `support` with two versions, the first in production."""
    registry = Registry.open(home)
    fleet.publish(registry, [*FLEET, "support", "support"])
    registry.promote("support@v1")
    return registry


@pytest.fixture(scope="session")
def url(registry: Registry, home: Path) -> Iterator[str]:
    with served(["--base", "tiny", "--registry", str(home)], home / "server.log") as url:
        yield url


@pytest.fixture(scope="session")
def shut(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shut]:
    """A second server over the same registry."""
    folder = tmp_path_factory.mktemp("shut")
    flags = ["--base", "tiny", "--registry", registry.location, "--api-key", ADMIN]
    with pytest.MonkeyPatch.context() as own, ExitStack() as stack:
        own.setenv("HF_TOKEN", HF_TOKEN)
        url = stack.enter_context(served([*flags, "--", *FEW_PLACES], folder / "server.log"))
        own.undo()
        yield Shut(url, KeyJournal(folder / "keys.jsonl"))


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def open_client(url: str) -> Callable[[], AsyncOpenAI]:
    return lambda: AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def reference() -> Reference:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = bases.resolve("tiny").path
    tokenizer = AutoTokenizer.from_pretrained(path)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    adapted: list[PeftModel] = []

    def answer(version: Version | None, message: str) -> str:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, return_tensors="pt"
        )
        length = prompt["input_ids"].shape[1]
        options = {"max_new_tokens": MAX_TOKENS, "do_sample": False}
        name = version.engine_name.replace(".", "_") if version else ""
        if version and not adapted:
            adapted.append(PeftModel.from_pretrained(base, version.path, adapter_name=name))
        if not adapted:
            tokens = base.generate(**prompt, **options)
        elif version is None:
            with adapted[0].disable_adapter():
                tokens = adapted[0].generate(**prompt, **options)
        else:
            if name not in adapted[0].peft_config:
                adapted[0].load_adapter(version.path, adapter_name=name)
            adapted[0].set_adapter(name)
            tokens = adapted[0].generate(**prompt, **options)
        return str(tokenizer.decode(tokens[0][length:], skip_special_tokens=True))

    return answer
