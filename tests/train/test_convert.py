"""What is converted answers as before, and the error that is told is the one there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from adapters.cli import main
from adapters.errors import InvalidAdapter, Rejected
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


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("plain", "servable as it is"),
        ("bias", "bias"),
        ("modules_to_save", "modules_to_save"),
        ("lora_ga", "changed the base by what is not in the folder"),
        ("prefix tuning", "PREFIX_TUNING"),
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
    with pytest.raises(Rejected, match="not converted"):
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
