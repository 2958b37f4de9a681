"""An adapter that changed its base, with its initial weights: ΔW is what training changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from adapters.cli import main
from adapters.errors import Rejected
from tests.e2e import changed_base_kinds, lint_kinds
from train.convert import convert

TINY = lint_kinds.TINY
TOKENS = torch.tensor([[5, 77, 431, 12, 90, 1033, 7]])


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def loaded(folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(lint_kinds.base_model(), folder)


@pytest.fixture(scope="module")
def pissa(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A trained adapter, its initial weights beside it, and its answers."""
    folder = tmp_path_factory.mktemp("pissa") / "trained"
    write = changed_base_kinds.kept("pissa_niter_2", target_modules=["q_proj", "v_proj"])
    return folder, logits(write(folder))


@pytest.fixture
def place(pissa: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    """A copy of it: `trained`, and `pissa_init` as training tools name it."""
    shutil.copytree(pissa[0], tmp_path / "trained")
    shutil.copytree(pissa[0].parent / "trained-initial", tmp_path / "pissa_init")
    return tmp_path


CHANGING = [kind for kind in changed_base_kinds.KINDS if "initial" in kind or "of a" in kind]


@pytest.mark.parametrize("kind", [*CHANGING, "pissa, rslora and patterns"])
def test_it_answers_as_what_was_trained(kind: str, tmp_path: Path) -> None:
    """Where PEFT can convert it too (on saving), and where PEFT cannot."""
    live = changed_base_kinds.KINDS[kind](tmp_path / "trained")
    assert live
    done = convert(
        tmp_path / "trained", tmp_path / "to", TINY, initial=tmp_path / "trained-initial"
    )
    assert done.error < 1e-6
    assert done.report.peft["r"] == 16
    answers = logits(live)
    torch.testing.assert_close(logits(loaded(tmp_path / "to")), answers, rtol=1e-4, atol=1e-3)
    assert (logits(lint_kinds.base_model()) - answers).abs().max() > 0.5


def test_initial_weights_are_found_beside_it(pissa: tuple[Path, torch.Tensor], place: Path) -> None:
    done = convert(place / "trained", place / "to", TINY)
    assert done.how == f"difference from {place / 'pissa_init'}, rank 16"
    torch.testing.assert_close(logits(loaded(place / "to")), pissa[1], rtol=1e-4, atol=1e-3)


def test_an_adapter_trained_on_a_saved_residual_says_nothing_of_it(
    pissa: tuple[Path, torch.Tensor], place: Path
) -> None:
    """Its init_lora_weights is true, so it is taken for servable unless it is told otherwise."""
    path = place / "trained" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": True}))
    with pytest.raises(Rejected, match="servable as it is"):
        convert(place / "trained", place / "to", TINY)
    convert(place / "trained", place / "to", TINY, initial=place / "pissa_init")
    torch.testing.assert_close(logits(loaded(place / "to")), pissa[1], rtol=1e-4, atol=1e-3)


def test_cut_to_a_rank_the_error_is_that_of_the_weights(place: Path) -> None:
    convert(place / "trained", place / "whole", TINY)
    done = convert(place / "trained", place / "to", TINY, rank=8)
    base = lint_kinds.base_model().state_dict()
    meant, made = (
        dict(loaded(place / name).merge_and_unload().state_dict()) for name in ("whole", "to")
    )
    lost = sum(float((meant[n] - made[n]).square().sum()) for n in base)
    size = sum(float((meant[n] - base[n]).square().sum()) for n in base)
    assert done.report.peft["r"] == 8
    assert 0.01 < done.error == pytest.approx((lost / size) ** 0.5, rel=1e-3)


def config_with(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def tensors_with(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        content = {name: value.clone() for name, value in load_file(path).items()}
        change(content)
        save_file(content, path, metadata={"format": "pt"})

    return write


def without_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def replaced(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "trained", folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "holds no initial weights"),
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            "holds no initial weights",
        ),
        (tensors_with(lint_kinds.without(".layers.2.")), "is not how it began"),
        (tensors_with(lint_kinds.renamed("q_proj", "k_proj")), "is not how it began"),
        (tensors_with(lint_kinds.each("lora_A", lambda a: a[:4])), "192 to 192 at rank 8 in"),
        (tensors_with(lint_kinds.one_nan), "has NaN"),
        (config_with(lora_alpha=4), "is scaled by 2 in"),
        (replaced, "nothing was trained"),
    ],
)
def test_other_initial_weights_are_refused(
    spoil: Callable[[Path], None], said: str, place: Path
) -> None:
    spoil(place / "pissa_init")
    with pytest.raises(Rejected, match=said) as refused:
        convert(place / "trained", place / "to", TINY, initial=place / "pissa_init")
    assert "--initial DIR" in refused.value.fix
    assert {path.name for path in place.iterdir()} <= {"trained", "pissa_init"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (config_with(use_dora=True), "by its initial weights: use_dora"),
        (config_with(bias="all"), "by its initial weights: bias"),
        (config_with(peft_type="LOHA"), "LOHA is not converted this way"),
        (tensors_with(lint_kinds.one_nan), "NaN"),
        (tensors_with(lint_kinds.renamed("layers.4", "layers.9")), "layers.9"),
    ],
)
def test_what_is_more_than_a_difference_is_refused(
    spoil: Callable[[Path], None], said: str, place: Path
) -> None:
    spoil(place / "trained")
    with pytest.raises(Rejected, match=said):
        convert(place / "trained", place / "to", TINY, initial=place / "pissa_init")
    assert not (place / "to").exists()


@pytest.mark.parametrize("init", ["corda", "lora_ga", "pissa_niter_16"])
def test_without_them_the_flag_is_named(init: str, place: Path) -> None:
    config_with(init_lora_weights=init)(place / "trained")
    shutil.rmtree(place / "pissa_init")
    with pytest.raises(Rejected, match="changed the base by what is not in the folder") as refused:
        convert(place / "trained", place / "to", TINY)
    assert "--initial DIR" in refused.value.fix


def test_loftq_is_refused_with_the_reason(place: Path) -> None:
    config_with(init_lora_weights="loftq", loftq_config={"loftq_bits": 4})(place / "trained")
    for initial in (None, place / "pissa_init"):
        with pytest.raises(Rejected, match="all of the quantisation's error"):
            convert(place / "trained", place / "to", TINY, initial=initial)


def test_the_command(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    arguments = ["lint", str(place / "trained"), "--base", "tiny"]
    initial = ["--initial", str(place / "pissa_init")]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--fix", *initial, "--out", str(place / "to"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["how"].startswith("difference from ")
    assert 0 < told["relative_error"] < 1e-6
    with pytest.raises(SystemExit, match="4"):
        main([*arguments, "--fix", "--initial", str(place / "no"), "--out", str(place / "to2")])
    assert f"{place / 'no'} holds no initial weights" in capsys.readouterr().err
