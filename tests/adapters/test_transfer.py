"""Versions between registries: folders and the Hub, through the commands and beneath them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from adapters.cli import main
from adapters.errors import InvalidAdapter, NotFound, RegistryUnavailable, UsageError
from adapters.files import TOLD_FILES, digest, sha256_file
from adapters.registry import Registry
from adapters.transfer import open_source, open_target, transfer
from adapters.types import BaseModel, File, Version
from tests.conftest import BASE, MakeAdapter
from tests.hub.faults import Fault
from tests.hub.server import ORG, WRITE_TOKEN, Hub

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("KILLS", "20"))
HF = f"hf://{ORG}"
NAME = "support"


@pytest.fixture
def here(tmp_path: Path, make_adapter: MakeAdapter) -> Registry:
    """A folder with v1 to v3; v2 holds all that a run leaves."""
    registry = Registry.open(tmp_path / "here")
    for seed in range(3):
        metrics, folder = {"eval_loss": 0.1 * seed}, make_adapter(seed=seed)
        for name in TOLD_FILES if seed == 1 else ():
            (folder / name).write_text(name)
        registry.publish(NAME, folder, base=BASE, metrics=metrics, tags=["a"])
    return registry


@pytest.fixture(params=["folder", "hub"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where to send: an empty registry."""
    if request.param == "hub":
        request.getfixturevalue("hub")
        return HF
    return str(tmp_path / "there")


def numbers(location: str) -> list[int]:
    return [version.number for version in Registry.open(location).versions(NAME)]


def test_a_version_arrives_as_it_is_and_comes_back(
    here: Registry, location: str, tmp_path: Path
) -> None:
    done = transfer(here, f"{NAME}@v2", open_target(location))
    sent = here.resolve(f"{NAME}@v2")
    assert (done.state, done.source, done.target) == ("sent", sent.engine_name, sent.engine_name)
    assert not done.renumbered
    back = Registry.open(tmp_path / "back")
    source, ref = open_source(f"{location}/{NAME}@v2")
    assert transfer(source, ref, back).state == "sent"
    for held in (Registry.open(location).resolve(NAME), back.resolve(NAME)):
        same = replace(held.manifest, publish_id=sent.manifest.publish_id)
        assert same == sent.manifest
        for path in sent.manifest.files:
            assert (held.path / path).read_bytes() == (sent.path / path).read_bytes()
    assert [entry.action for entry in back.log(NAME)] == ["publish"]
    assert back.log(NAME)[0].detail == {"received": sent.engine_name}


def test_a_version_without_a_model_card_gets_one_on_the_hub_and_keeps_its_digest(
    hub: Hub, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    base = BaseModel("Qwen/Qwen3-0.6B", "c1899de", "1" * 64, "2" * 64, "3" * 64)
    with_card = make_adapter(seed=1)
    (with_card / "README.md").write_text("# By its author")
    source = Registry.open(tmp_path / "here")
    for folder in (make_adapter(), with_card, make_adapter(seed=2)):
        source.publish(NAME, folder, base=base, recipe={"r": 4}, metrics={"eval_loss": 0.25})
    target = open_target(HF)
    for number in (1, 2, 3):
        transfer(source, f"{NAME}@v{number}", target)
    target.promote(f"{NAME}@v3")

    def sent(revision: str) -> str:
        return Path(HfApi().hf_hub_download(f"{ORG}/{NAME}", "README.md", revision=revision,
                                            cache_dir=tmp_path / "hf")).read_text()  # fmt: skip

    _, metadata, text = sent("v1").split("---\n", 2)
    assert 'base_model: "Qwen/Qwen3-0.6B"\nlibrary_name: peft' in metadata
    for said in (
        "| eval_loss | 0.25 |",
        '"r": 4',
        "serve --base Qwen/Qwen3-0.6B --registry hf://acme",
        "hf download acme/support --revision v1 --local-dir support-v1",
        "--max-lora-rank 8 --lora-modules support=support-v1",
        'from_pretrained(model, "acme/support", revision="v1")',
    ):
        assert said in text
    assert sent("v2") == "# By its author"
    assert "support-v3" in sent("v3")
    assert sent("production") == sent("v3")
    for version in target.versions(NAME):
        assert version.manifest.digest == source.resolve(version.ref).manifest.digest
        assert target.verify(version.ref)
    back = Registry.open(tmp_path / "back")
    transfer(*open_source(f"{HF}/{NAME}@v1"), back)
    assert sorted(p.name for p in back.resolve(NAME).path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]


def test_what_is_there_already_is_not_sent_again(here: Registry, location: str) -> None:
    for _ in range(2):
        done = transfer(here, f"{NAME}@v3", open_target(location))
    assert done.state == "already there"
    assert numbers(location) == [3]


def test_a_number_is_kept_where_it_is_free_and_else_the_next(
    here: Registry, location: str, make_adapter: MakeAdapter
) -> None:
    target = open_target(location)
    assert not transfer(here, f"{NAME}@v2", target).renumbered
    dry = transfer(here, f"{NAME}@v1", target, dry_run=True)
    done = transfer(here, f"{NAME}@v1", target)
    assert done.renumbered
    assert dry.target == done.target
    assert done.target.startswith(f"{NAME}@v3+")
    assert transfer(here, f"{NAME}@v3", target).target.startswith(f"{NAME}@v4+")
    assert target.publish(NAME, make_adapter(seed=9), base=BASE).number == 5
    assert numbers(location) == [2, 3, 4, 5]


def test_a_dry_run_changes_nothing(here: Registry, location: str) -> None:
    done = transfer(here, NAME, open_target(location), dry_run=True)
    assert (done.state, done.files) == ("would be sent", 2)
    assert done.size_bytes == sum(
        file.size_bytes for file in here.resolve(NAME).manifest.files.values()
    )
    assert Registry.open(location).names() == []


def test_what_was_damaged_is_not_spread(here: Registry, location: str) -> None:
    weights = here.resolve(NAME).path / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(InvalidAdapter, match=r"adapter_model\.safetensors was changed"):
        transfer(here, NAME, open_target(location))
    assert Registry.open(location).names() == []


def test_what_lint_refuses_is_not_taken_in(hub: Hub, here: Registry, tmp_path: Path) -> None:
    """What a registry holds need not have come from us."""
    transfer(here, f"{NAME}@v1", open_target(HF))
    source, ref = open_source(f"{HF}/{NAME}@v1")
    bad = source.resolve(ref)
    config = bad.path / "adapter_config.json"
    refused = {**json.loads(config.read_bytes()), "use_dora": True}
    folder = tmp_path / "bad"
    folder.mkdir()
    for path in bad.manifest.files:
        (folder / path).write_bytes((bad.path / path).read_bytes())
    (folder / "adapter_config.json").write_text(json.dumps(refused))
    # As a stranger would have published it: every hash is right.
    files = {p.name: File(sha256_file(p), p.stat().st_size) for p in folder.iterdir()}
    theirs = Version(replace(bad.manifest, files=files, digest=digest(files)), folder)
    target = Registry.open(tmp_path / "target")
    with pytest.raises(InvalidAdapter, match="cannot be served"):
        target.receive(theirs)
    assert target.names() == []


def test_a_push_that_is_cut_short_is_repeated_without_doubling(hub: Hub, here: Registry) -> None:
    hub.faults.add(Fault("status", path="/tag/", status=403))
    with pytest.raises(RegistryUnavailable, match="403"):
        transfer(here, NAME, open_target(HF))
    open_target(HF)._backend.sweep(NAME)
    assert transfer(here, NAME, open_target(HF)).state == "already there"
    assert numbers(HF) == [3]


def test_a_killed_puller_leaves_nothing_torn_and_nothing_behind(
    hub: Hub, here: Registry, tmp_path: Path
) -> None:
    """KILLS=200 in the environment asks for more instants."""
    for version in here.versions(NAME):
        transfer(here, version.ref, open_target(HF))
    hub.faults.add(Fault("slow", "GET", "/_cdn/", times=10**9, pause_s=0.005))
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.pullers", str(tmp_path / "machines"), str(KILLS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1


@pytest.mark.parametrize("source", ["support", "hf://acme", "hf://", "", "/", "s3://a/b@v1"])
def test_a_source_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="hf://your-org"):
        open_source(source)


def test_a_version_that_is_not_there_is_said_so(hub: Hub, here: Registry) -> None:
    with pytest.raises(NotFound):
        transfer(here, f"{NAME}@v9", open_target(HF))
    with pytest.raises(NotFound):
        transfer(*open_source(f"{HF}/{NAME}@v1"), here)


# -- the commands -----------------------------------------------------------------------------


@pytest.fixture
def run(here: Registry, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    def run(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--registry", here.location])
        assert ended.value.code == 0
        told = capsys.readouterr()
        assert WRITE_TOKEN not in told.out + told.err
        return told.out, told.err

    return run


def test_push_and_pull(hub: Hub, run: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    out, err = run("push", f"{NAME}@v2", HF, "--dry-run", "--json")
    assert json.loads(out)["state"] == "would be sent"
    assert err == f"Sending {NAME}@v2 to {HF} …\n"
    assert hub.repos == {}
    out, _ = run("push", f"{NAME}@v2", HF, "--json")
    told = json.loads(out)
    assert sorted(told) == [
        "files", "location", "renumbered", "size_bytes", "source", "state", "target",
    ]  # fmt: skip
    assert (told["state"], told["location"], told["renumbered"]) == ("sent", HF, False)
    assert HfApi().repo_info(f"{ORG}/{NAME}").private is True
    assert f"already there, {told['files']} files" in run("push", f"{NAME}@v2", HF)[0]
    out, err = run("pull", f"{HF}/{NAME}@v2")
    assert err == f"Fetching {NAME}@v2 from {HF} …\n"
    assert "already there" in out
    run("push", f"{NAME}@v1", str(tmp_path / "other"))
    assert "v1" in run("pull", f"{tmp_path / 'other'}/{NAME}")[0]


def test_push_public(hub: Hub, run: Callable[..., tuple[str, str]]) -> None:
    run("push", NAME, HF, "--public")
    assert HfApi().repo_info(f"{ORG}/{NAME}").private is False
