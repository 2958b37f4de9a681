"""Every known trap of vLLM 0.32 bites vLLM's own server, and does not bite ours.

Those that end vLLM need a server each, so of these only ours is asked as a rule:
`make test-traps` plays them against vLLM too.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.errors import Unavailable
from adapters.registry import Registry
from tests.e2e.shut import Shut
from tests.e2e.traps import scenarios
from tests.e2e.traps.scenarios import DEADLY, HARMFUL, Scenario
from tests.e2e.traps.servers import Bitten, Folders, Ours, Stock, stock

alone = pytest.mark.skipif(not os.environ.get("STOCK"), reason="a vLLM of its own: make test-traps")
PLACES = {scenarios.a_name_given_anew_under_a_stream: ["--max-loras=2"]}


def _named(scenario: Scenario) -> str:
    return scenario.__name__.replace("_", " ")


@pytest.fixture(scope="module")
def folders(registry: Registry) -> Folders:
    return lambda number: registry.resolve(f"fleet-{number}").path


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory, ours: Ours) -> Iterator[Stock]:
    with stock(tmp_path_factory.mktemp("stock")) as server:
        server.begin_request()
        yield server


@pytest.fixture(scope="module")
def ours(shut: Shut, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    """With fewer places than adapters."""
    server = Ours(shut.url, registry, tmp_path_factory.mktemp("ours"))
    server.begin_request()
    return server


@pytest.fixture
def ours_as_planned(url: str, registry: Registry, tmp_path: Path) -> Ours:
    return Ours(url, registry, tmp_path)


@pytest.mark.parametrize("scenario", [scenarios.few_places, *HARMFUL], ids=_named)
def test_vllm_falls_into(scenario: Scenario, vllm: Stock, folders: Folders) -> None:
    with pytest.raises(Bitten):
        scenario(vllm, folders)
    assert vllm.lives()


@pytest.mark.parametrize("scenario", [*DEADLY, *HARMFUL], ids=_named)
def test_ours_does_not_fall_into(scenario: Scenario, ours: Ours, folders: Folders) -> None:
    scenario(ours, folders)
    assert ours.lives()
    ours.said("fleet-7")


def test_ours_plans_its_places(ours_as_planned: Ours, folders: Folders) -> None:
    scenarios.few_places(ours_as_planned, folders)


def test_half_sent_requests(vllm: Stock, ours: Ours, folders: Folders) -> None:
    scenarios.a_request_that_is_half_sent(ours, folders)
    with pytest.raises(Bitten):
        scenarios.a_request_that_is_half_sent(vllm, folders)


@alone
@pytest.mark.parametrize("scenario", DEADLY, ids=_named)
def test_vllm_dies_of(scenario: Scenario, tmp_path: Path, folders: Folders) -> None:
    with stock(tmp_path, *PLACES.get(scenario, ())) as server, pytest.raises(Bitten):
        scenario(server, folders)


@alone
def test_vllm_serves_without_a_plugin_that_it_cannot_load(tmp_path: Path, folders: Folders) -> None:
    with stock(tmp_path, VLLM_PLUGINS="lora_filesystem_resolvr") as server:
        server.put("unresolved", folders(0))
        assert server.lives()
        assert server.ask("unresolved").status_code == 404


def test_ours_is_not_ready_without_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.engines import vllm_engine

    monkeypatch.setattr(vllm_engine, "_plugged_in", False)
    app = SimpleNamespace(state=SimpleNamespace(openai_serving_models=None))
    engine = vllm_engine.VllmEngine(app, None, None, generates=True)  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="plugin"):
        asyncio.run(engine.check())


@alone
def test_vllms_command_does_not_start_on_a_cpu() -> None:
    """It asks for the version of a distribution that has another name there; ours does not."""
    from serve.engines import vllm_engine

    if not vllm_engine.on_cpu():
        pytest.skip("vLLM for a GPU")
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "PackageNotFoundError" in done.stderr
