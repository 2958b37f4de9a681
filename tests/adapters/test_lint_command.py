"""`adapters lint` as people and programs see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters import bases
from adapters.cli import main
from adapters.registry import Registry
from tests.conftest import BASE, LLAMA, MakeAdapter


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path / "base"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        main(["lint", *arguments])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_servable_folder(
    capsys: pytest.CaptureFixture[str], adapter_folder: Path, base: Path
) -> None:
    code, out, _ = run(capsys, str(adapter_folder), "--base", str(base))
    assert code == 0
    assert f"14 of 14 modules match {base}." in out
    assert "Servable: rank 4, needs max_lora_rank 8." in out


def test_the_base_is_the_one_it_names(
    capsys: pytest.CaptureFixture[str], make_adapter: MakeAdapter, base: Path
) -> None:
    folder = make_adapter(config={"base_model_name_or_path": str(base)})
    assert "14 of 14 modules match" in run(capsys, str(folder))[1]
    elsewhere = make_adapter(config={"base_model_name_or_path": "nobody/nothing"})
    code, out, _ = run(capsys, str(elsewhere))
    assert code == 0
    assert "14 modules, not held against a base" in out


def test_findings(capsys: pytest.CaptureFixture[str], make_adapter: MakeAdapter) -> None:
    folder = make_adapter(config={"use_dora": True})
    code, out, _ = run(capsys, str(folder), "--base", "tiny")
    assert code == 4
    assert "use_dora: vLLM does not serve DoRA's magnitude\n  why  vLLM would refuse it" in out
    assert "\n  fix  Train without use_dora" in out
    assert "maps 32 to 32 where the base maps 192 to 192" in out
    assert "0 of 14 modules match tiny." in out
    assert "Not servable: " in out


def test_json(capsys: pytest.CaptureFixture[str], make_adapter: MakeAdapter, base: Path) -> None:
    folder = make_adapter(config={"lora_bias": True})
    code, out, _ = run(capsys, str(folder), "--base", str(base), "--json")
    assert code == 4
    assert json.loads(out) == {
        "path": str(folder),
        "base": str(base),
        "servable": False,
        "modules": 14,
        "matched": 14,
        "max_lora_rank": 8,
        "findings": [
            {
                "check": "field",
                "where": "lora_bias",
                "message": "vLLM does not serve a LoRA bias",
                "fix": "Train without lora_bias.",
                "consequence": "vLLM would refuse it, or ignore the field and serve other "
                "answers than PEFT",
            }
        ],
        "warnings": [],
    }


def test_a_folder_that_is_no_adapter_is_a_finding(
    capsys: pytest.CaptureFixture[str], adapter_folder: Path
) -> None:
    (adapter_folder / "optimizer.pt").touch()
    code, out, _ = run(capsys, str(adapter_folder), "--json")
    assert code == 4
    assert "is a pickle" in json.loads(out)["findings"][0]["message"]
    assert run(capsys, "./nowhere")[0] == 4


def test_a_pipe_does_not_hang_it(capsys: pytest.CaptureFixture[str], adapter_folder: Path) -> None:
    import os

    (adapter_folder / "adapter_config.json").unlink()
    os.mkfifo(adapter_folder / "adapter_config.json")
    code, out, _ = run(capsys, str(adapter_folder))
    assert code == 4
    assert "is not a plain file" in out


def test_a_version(
    capsys: pytest.CaptureFixture[str], adapter_folder: Path, tmp_path: Path
) -> None:
    registry = Registry.open(tmp_path / "registry")
    registry.publish("support", adapter_folder, base=BASE)
    where = ("--registry", str(tmp_path / "registry"))
    assert run(capsys, "support@v1", *where)[0] == 0
    assert run(capsys, "support@v1", *where, "--base", "tiny")[0] == 4
    assert run(capsys, "support@v2", *where)[0] == 3
    assert run(capsys, "Support", *where)[0] == 2


def test_a_base_that_is_not_there(
    capsys: pytest.CaptureFixture[str], adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(base: str) -> None:
        raise bases.NotFound(f"no {base}")

    monkeypatch.setattr(bases, "resolve", resolve)
    assert run(capsys, str(adapter_folder), "--base", "nobody/nothing")[0] == 3


@pytest.mark.parametrize("option", ["--out", "--rank", "--initial"])
def test_what_is_for_fix_alone(
    capsys: pytest.CaptureFixture[str], adapter_folder: Path, option: str
) -> None:
    code, _, err = run(capsys, str(adapter_folder), option, "8")
    assert code == 2
    assert "--out, --rank and --initial are for --fix." in err
