"""A version gets into the engine if its files are those of its manifest, once, and alone."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from adapters.errors import Rejected, Unavailable
from adapters.registry import Registry
from adapters.types import Version
from serve.engines.echo_engine import EchoEngine
from serve.loading import residency, staging
from serve.loading.admission import Admission
from serve.loading.residency import Residency
from serve.loading.staging import verify
from tests.conftest import LLAMA
from tests.serve.conftest import MakeServer, Publish


def spoil(path: Path, content: bytes | None = None) -> None:
    """Replace a published file by other bytes, or take it away."""
    path.parent.chmod(0o755)
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def use(engine: EchoEngine, *versions: Version) -> list[BaseException | None]:
    async def one(gate: Admission, version: Version) -> None:
        async with gate.using(version):
            assert version.engine_name in engine.loaded()

    async def play() -> list[BaseException | None]:
        gate = Admission(Residency(engine))
        return await asyncio.gather(*(one(gate, v) for v in versions), return_exceptions=True)

    return asyncio.run(play())


def test_a_version_is_checked_and_loaded_once_whoever_comes(
    support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def noting(version: Version, *rest: object) -> staging.Marks:
        checked.append(version.ref)
        return verify(version)

    monkeypatch.setattr(residency, "verify", noting)
    engine = EchoEngine("small")
    assert use(engine, *[support[0]] * 20, support[1]) == [None] * 21
    assert sorted(checked) == ["support@v1", "support@v2"]
    assert sorted(engine.loads) == sorted(version.engine_name for version in support)


@pytest.mark.parametrize("content", [None, b"", b"{}"])
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_files_that_are_not_the_manifests_shut_out_that_version_alone(
    serve: MakeServer, support: tuple[Version, Version], name: str, content: bytes | None
) -> None:
    spoil(support[0].path / name, content)
    server = serve()
    reply = server.chat("support@v1")
    assert reply.status_code == 503
    assert "support@v1" in reply.json()["error"]["message"]
    assert str(support[0].path) not in reply.text
    assert server.chat("support@v2").is_success
    assert server.chat("small").is_success
    assert server.engine.loads == [support[1].engine_name]


def test_foreign_files_links_and_pipes_shut_it_out(publish: Publish, tmp_path: Path) -> None:
    foreign, link, pipe = publish("a"), publish("b"), publish("c")
    foreign.path.chmod(0o755)
    (foreign.path / "adapter_model.bin").write_bytes(b"pickle")
    copy = tmp_path / "copy"
    copy.write_bytes((link.path / "adapter_config.json").read_bytes())
    spoil(link.path / "adapter_config.json")
    (link.path / "adapter_config.json").symlink_to(copy)
    spoil(pipe.path / "adapter_config.json")
    os.mkfifo(pipe.path / "adapter_config.json")
    engine = EchoEngine("small")
    found = use(engine, foreign, link, pipe)
    assert [type(error) for error in found] == [Unavailable] * 3
    assert engine.loads == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("adapter_config.json", "use_dora"), ("adapter_model.safetensors", "NaN")],
)
def test_a_manifest_made_up_to_fit_its_files_does_not_get_past_lint(
    publish: Publish, registry: Registry, name: str, said: str
) -> None:
    """It says that lint passed; but so can anyone who can write it."""
    import hashlib

    from adapters.files import digest
    from adapters.types import File

    version = publish("support")
    content = (version.path / name).read_bytes()
    if name == "adapter_config.json":
        content = json.dumps(json.loads(content) | {"use_dora": True}).encode()
    else:
        content = content[:-4] + b"\xff" * 4
    spoil(version.path / name, content)
    manifest = json.loads((version.path / "manifest.json").read_bytes())
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    manifest["files"][name] = entry
    manifest["digest"] = digest({k: File(**v) for k, v in manifest["files"].items()})
    assert manifest["lint"]["passed"]
    spoil(version.path / "manifest.json", json.dumps(manifest).encode())
    forged = Registry.open(registry.location).resolve("support@v1")
    with pytest.raises(Unavailable, match=said):
        verify(forged)


def test_weights_that_do_not_fit_the_base_are_refused(publish: Publish) -> None:
    version = publish("support")
    assert verify(version, LLAMA)
    with pytest.raises(Unavailable, match="damaged"):
        verify(version, {**LLAMA, "hidden_size": 64})


def test_files_are_read_once_and_looked_at_after_that(
    serve: MakeServer, support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "_WATCH_S", 0.0)
    server = serve()
    assert server.chat("support@v1").is_success
    monkeypatch.setattr(staging, "differences", lambda *_: 1 / 0)
    assert server.chat("support@v1").is_success


def test_files_that_change_after_loading_shut_the_version_out(
    serve: MakeServer, support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "_WATCH_S", 0.0)
    server = serve()
    assert server.chat("support@v1").is_success
    spoil(support[0].path / "adapter_model.safetensors")
    assert server.chat("support@v1").status_code == 503
    assert server.chat("support@v2").is_success


def test_a_refusal_stands_a_while_and_ends_once_the_files_are_back(
    serve: MakeServer, support: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = support[0].path / "adapter_config.json"
    content = path.read_bytes()
    spoil(path)
    server = serve()
    assert server.chat("support@v1").status_code == 503
    path.write_bytes(content)
    assert server.chat("support@v1").status_code == 503
    monkeypatch.setattr(residency, "_RETRY_S", 0.0)
    assert server.chat("support@v1").is_success


def test_a_rank_above_the_engines_is_refused_naming_the_flag(support: tuple[Version, ...]) -> None:
    (error,) = use(EchoEngine("small", max_lora_rank=1), support[0])
    assert isinstance(error, Rejected)
    assert "--max-lora-rank" in str(error)


def test_an_engine_that_cannot_load_is_a_503(
    serve: MakeServer, support: tuple[Version, Version]
) -> None:
    server = serve()
    server.engine.trouble = "out of memory"
    assert server.chat("support").status_code == 503


def test_one_leaving_client_does_not_spoil_the_check_for_the_others(
    support: tuple[Version, Version],
) -> None:
    engine = EchoEngine("small")

    async def play() -> None:
        gate = Admission(Residency(engine))

        async def one() -> None:
            async with gate.using(support[0]):
                pass

        first, second = asyncio.create_task(one()), asyncio.create_task(one())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled() or first.cancelling()

    asyncio.run(play())
    assert engine.loads == [support[0].engine_name]


def test_a_version_leaves_the_engine_once_it_is_gone_and_nobody_uses_it(
    support: tuple[Version, Version],
) -> None:
    engine = EchoEngine("small")
    one, two = support

    async def play() -> None:
        gate = Admission(Residency(engine))
        async with gate.using(one):
            async with gate.using(two):
                pass
            await gate.forget({two.engine_name})
            assert engine.loaded() == {one.engine_name, two.engine_name}, "in use"
        await gate.forget({two.engine_name})
        assert engine.loaded() == {two.engine_name}
        async with gate.using(one):
            assert one.engine_name in engine.loaded(), "and may come back"

    asyncio.run(play())
