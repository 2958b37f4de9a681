"""What is converted answers as before, and the error that is told is the one there is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from adapters.cli import main
from adapters.errors import InvalidAdapter, Rejected, UsageError
from tests.e2e import lint_kinds
from train.convert import convert

TINY = lint_kinds.TINY
TOKENS = torch.tensor([[5, 77, 431, 12, 90, 1033, 7]])


def written(kind: str, place: Path) -> Path:
    lint_kinds.KINDS[kind](place / "from")
    return place / "from"


@torch.inference_mode()
def logits(folder: Path) -> torch.Tensor:
    return PeftModel.from_pretrained(lint_kinds.base_model(), folder).eval()(TOKENS).logits


def merged(folder: Path) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(lint_kinds.base_model(), folder)
    return dict(model.merge_and_unload().state_dict())


def test_dora_keeps_its_magnitude(tmp_path: Path) -> None:
    """At full rank nothing is lost; PEFT's own converter is off by the magnitude at any rank."""
    folder = written("dora", tmp_path)
    done = convert(folder, tmp_path / "to", TINY, rank=192)
    assert done.error < 1e-6
    torch.testing.assert_close(logits(tmp_path / "to"), logits(folder), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["dora", "lokr", "vera"])
def test_the_error_told_is_that_of_the_weights(kind: str, tmp_path: Path) -> None:
    folder = written(kind, tmp_path)
    done = convert(folder, tmp_path / "to", TINY, rank=16)
    base = lint_kinds.base_model().state_dict()
    meant, made = merged(folder), merged(tmp_path / "to")
    lost = sum(float((meant[n] - made[n]).square().sum()) for n in base)
    whole = sum(float((meant[n] - base[n]).square().sum()) for n in base)
    assert done.report.peft["r"] == 16
    assert 0.01 < done.error < 0.95
    assert done.error == pytest.approx((lost / whole) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("kind", ["velora", "monteclora"])
def test_what_only_training_used_is_left_out_to_the_bit(kind: str, tmp_path: Path) -> None:
    folder = written(kind, tmp_path)
    done = convert(folder, tmp_path / "to", TINY)
    assert (done.how, done.error) == (f"{kind} left out", 0.0)
    assert torch.equal(logits(tmp_path / "to"), logits(folder))
    before, after = (
        load_file(at / "adapter_model.safetensors") for at in (folder, tmp_path / "to")
    )
    assert all("lora_A" in name or "lora_B" in name for name in after)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_pissa_says_that_its_base_was_computed_again(tmp_path: Path) -> None:
    folder = written("pissa", tmp_path)
    done = convert(folder, tmp_path / "to", TINY)
    assert done.how.endswith("pissa's base computed again, as if it was not quantised in training")
    torch.testing.assert_close(logits(tmp_path / "to"), logits(folder), rtol=1e-3, atol=1e-3)


def test_the_tokenizer_and_the_card_go_along(tmp_path: Path) -> None:
    folder = written("dora", tmp_path)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("# Ours")
    convert(folder, tmp_path / "to", TINY)
    assert (tmp_path / "to" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (tmp_path / "to" / "README.md").read_text() == "# Ours"


def test_an_interrupt_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    folder = written("dora", tmp_path)
    monkeypatch.setattr("train.convert.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "to", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


def test_a_rank_for_what_is_not_cut(tmp_path: Path) -> None:
    folder = written("prefix without model.", tmp_path)
    with pytest.raises(UsageError, match="--rank is for what is cut"):
        convert(folder, tmp_path / "to", TINY, rank=8)


def test_a_quantised_base_is_refused(tmp_path: Path) -> None:
    folder, base = written("dora", tmp_path), tmp_path / "base"
    shutil.copytree(TINY, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(Rejected, match="is quantised"):
        convert(folder, tmp_path / "to", base)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("plain", "servable as it is"),
        ("bias", "bias"),
        ("modules_to_save", "modules_to_save"),
        ("lora_ga", "changed the base by what is not in the folder"),
        ("prefix tuning", "PREFIX_TUNING adds to the prompt"),
        ("alora", "activated LoRA"),
        ("a layer too many", "no tensor of this base under another name"),
        ("a layer's tensors missing", "has no tensors"),
        ("smaller base", "maps 256 to 96"),
        ("NaN", "NaN"),
        ("zero B", "zero"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing(kind: str, said: str, tmp_path: Path) -> None:
    folder = written(kind, tmp_path)
    with pytest.raises(Rejected, match=said):
        convert(folder, tmp_path / "to", TINY)
    assert {path.name for path in tmp_path.iterdir()} <= {"from", "from-initial"}


def test_no_module_that_a_stranger_names_is_imported(tmp_path: Path) -> None:
    folder = written("adalora", tmp_path)
    path = folder / "adapter_config.json"
    strange = {"megatron_config": {"x": 1}, "megatron_core": "antigravity"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **strange}))
    with pytest.raises(Rejected, match="of Megatron is not converted"):
        convert(folder, tmp_path / "to", TINY)


def test_nothing_is_overwritten_and_no_pickle_is_read(tmp_path: Path) -> None:
    folder = written("dora", tmp_path)
    with pytest.raises(Rejected, match="exists"):
        convert(folder, folder, TINY)
    (folder / "adapter_model.bin").touch()
    with pytest.raises(InvalidAdapter, match="is a pickle"):
        convert(folder, tmp_path / "to", TINY)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, out = written("miss", tmp_path), tmp_path / "to"
    arguments = ["lint", str(folder), "--base", "tiny", "--fix"]
    for wrong in (arguments, ["lint", str(folder), "--out", str(out)]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--out", str(out), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["how"]) == (str(out), "true ΔW cut to rank 64")
    assert told["relative_error"] < 1e-5
    assert told["servable"] is True
    with pytest.raises(SystemExit, match="0"):
        main(["lint", str(out), "--base", "tiny"])
    assert "10 of 10 modules match tiny." in capsys.readouterr().out
