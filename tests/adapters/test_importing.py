"""Adapters made elsewhere: what is taken, what is left out, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters import bases
from adapters.cli import app
from adapters.errors import AdaptersError, InvalidAdapter, InvalidName, NotFound
from adapters.importing import import_adapter
from adapters.registry import Registry


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as transformers' Trainer leaves it, on the tiny base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = bases.resolve("tiny").path
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path), LoraConfig(r=4, target_modules="all-linear")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data)
    folder = tmp_path_factory.mktemp("run") / "checkpoint-7"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    log = [{"loss": 3.5, "step": 1}, {"loss": 2.5, "step": 7}, {"eval_loss": 2.25, "step": 7}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    (folder / "training_args.bin").write_bytes(b"\x80\x04never opened")
    (folder / "optimizer.pt").write_bytes(b"\x80\x04never opened")
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry")


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_a_versions_own_folder_keeps_its_card_curve_and_receipt(
    registry: Registry, copy: Path
) -> None:
    for name in ("README.md", "loss.png", "loss.svg", "loss.csv", "data_receipt.json"):
        (copy / name).write_text(name)
    done = import_adapter(registry, str(copy), "support", base="tiny")
    assert {"README.md", "loss.png", "loss.svg", "loss.csv", "data_receipt.json"} <= set(
        done.version.manifest.files
    )


def test_a_checkpoint_becomes_a_version_without_what_lies_beside_it(
    registry: Registry, trained: Path
) -> None:
    done = import_adapter(
        registry, str(trained), "support", base="tiny", tags=["old"], notes="ours"
    )
    manifest = done.version.manifest
    assert manifest.base == bases.resolve("tiny").model
    assert set(manifest.files) <= {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {"training_args.bin", "optimizer.pt", "trainer_state.json"} <= set(done.left_out)
    assert manifest.metrics == {"train_loss": 2.5, "eval_loss": 2.25}
    assert manifest.code["imported_from"] == "checkpoint-7"
    assert (manifest.tags, manifest.notes) == (("old",), "ours")
    assert str(trained.parent) not in json.dumps(manifest.code | manifest.recipe)
    assert not any("chat_template" in warning for warning in done.warnings)


def test_another_chat_template_is_told(registry: Registry, copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    done = import_adapter(registry, str(copy), "support", base="tiny")
    assert any("chat_template.jinja differs" in warning for warning in done.warnings)


def test_the_base_is_taken_from_its_configuration(registry: Registry, trained: Path) -> None:
    done = import_adapter(registry, str(trained), "support")
    assert done.version.manifest.base.revision == bases.resolve("tiny").model.revision


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
            "as a pickle",
        ),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 64), "safetensors"),
        (lambda f: _link(f / "adapter_model.safetensors"), "cannot be copied"),
        (lambda f: _configure(f, use_dora=True), "use_dora"),
        (lambda f: _configure(f, r=8), "rank 4 where r says 8"),
    ],
)
def test_what_cannot_be_served_is_refused_and_nothing_is_published(
    registry: Registry, copy: Path, spoil: object, said: str
) -> None:
    spoil(copy)  # type: ignore[operator]
    with pytest.raises(InvalidAdapter) as refused:
        import_adapter(registry, str(copy), "support", base="tiny")
    assert said in str(refused.value)
    assert registry.names() == []


def test_the_folder_above_a_checkpoint_is_told_where_it_is(
    registry: Registry, trained: Path
) -> None:
    with pytest.raises(InvalidAdapter, match="checkpoint-7"):
        import_adapter(registry, str(trained.parent), "support", base="tiny")


def test_nothing_there(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AdaptersError) as refused:
        import_adapter(registry, str(tmp_path / "nowhere"), "support", base="tiny")
    assert isinstance(refused.value, NotFound)
    with pytest.raises(InvalidName):
        import_adapter(registry, str(tmp_path), "../x", base="tiny")


def test_the_command(registry: Registry, trained: Path) -> None:
    arguments = ["import", str(trained), "--name", "support", "--base", "tiny", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--registry", registry.location])
    content = json.loads(done.stdout)
    assert content["engine_name"].startswith("support@v1+")
    assert Path(content["path"]).is_dir()


def _link(path: Path) -> None:
    target = path.with_suffix(".elsewhere")
    path.rename(target)
    os.symlink(target, path)


def _configure(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
