"""Every kind of adapter that PEFT has: converted to what PEFT runs, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType
from safetensors.torch import load_file, save_file

from adapters.errors import Rejected
from tests.e2e import lint_kinds, moe_kinds
from train.convert import convert
from train.merged import TYPES, WITHOUT_DELTA

TOKENS = torch.tensor([[5, 77, 431, 12, 90, 1033, 7]])
TARGETS = ["layers.0.self_attn.q_proj", "layers.3.mlp.down_proj"]
UNPROVEN = {"ADAMSS"}  # wants scikit-learn
OPTIONS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "BOFT": {"boft_block_size": 8},
    "C3A": {"block_size": 64},
    "FOURIERFT": {"n_frequency": 50},
    "HRA": {"r": 4},
    "IA3": {"feedforward_modules": TARGETS[1:]},
    "OFT": {"oft_block_size": 8, "r": 0},
    "RANDLORA": {"r": 4},
    "VBLORA": {"vector_length": 32, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 50},
}
OF_LOW_RANK = {"DEFT": 8, "DELORA": 8, "HRA": 4, "LOHA": 64, "TINYLORA": 2, "VBLORA": 4}


def saved(kind: str, folder: Path) -> torch.nn.Module:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    options = OPTIONS.get(kind, {})
    return lint_kinds.saved(
        folder, config(task_type="CAUSAL_LM", target_modules=TARGETS, **options)
    )


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(TOKENS).logits


def test_every_kind_is_accounted_for() -> None:
    assert {*TYPES, *WITHOUT_DELTA, *UNPROVEN} == {kind.value for kind in PeftType}
    assert not set(TYPES) & set(WITHOUT_DELTA)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "LORA"])
def test_at_full_rank_it_answers_as_peft_does(kind: str, tmp_path: Path) -> None:
    answers = logits(saved(kind, tmp_path / "from"))
    done = convert(tmp_path / "from", tmp_path / "to", lint_kinds.TINY, rank=192)
    made = logits(PeftModel.from_pretrained(lint_kinds.base_model(), tmp_path / "to"))
    torch.testing.assert_close(made, answers, rtol=1e-4, atol=1e-3)
    changed = (answers - logits(lint_kinds.base_model())).abs().max()
    assert (made - answers).abs().max() < changed / 100
    assert done.error < 1e-4


@pytest.mark.parametrize("kind", OF_LOW_RANK)
def test_no_more_rank_is_taken_than_there_is(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path / "from")
    done = convert(tmp_path / "from", tmp_path / "to", lint_kinds.TINY)
    assert done.error < 1e-4
    assert OF_LOW_RANK[kind] <= done.report.peft["r"] <= max(8, OF_LOW_RANK[kind])


@pytest.mark.parametrize("kind", ["BEFT", "CPT", "LN_TUNING", "LILY", "PREFIX_TUNING", "ADAMSS"])
def test_the_others_are_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    lint_kinds.KINDS["vera"](tmp_path / "from")
    path = tmp_path / "from" / "adapter_config.json"
    path.write_text(path.read_text().replace('"VERA"', f'"{kind}"'))
    reason = WITHOUT_DELTA.get(kind, "is not converted this way")
    with pytest.raises(Rejected, match=f"{kind} {reason}") as refused:
        convert(tmp_path / "from", tmp_path / "to", lint_kinds.TINY)
    assert refused.value.fix == "Train a LoRA."


@pytest.mark.parametrize("lacks", ["vera_lambda_b", "vera_lambda_d"])
def test_a_tensor_that_lacks_is_not_drawn_at_random(lacks: str, tmp_path: Path) -> None:
    """PEFT only warns of it, and merges what it drew."""
    lint_kinds.KINDS["vera"](tmp_path / "from")
    path = tmp_path / "from" / "adapter_model.safetensors"
    content = load_file(path)
    lint_kinds.without(".layers.2.", lacks)(content)
    save_file(content, path, metadata={"format": "pt"})
    with pytest.raises(Rejected, match=r"do not agree on base_model\.model\.model\.layers\.2"):
        convert(tmp_path / "from", tmp_path / "to", lint_kinds.TINY)


def test_what_is_beside_the_projections_is_not_lost(tmp_path: Path) -> None:
    config = peft.VeraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    lint_kinds.saved(tmp_path / "from", config)
    with pytest.raises(Rejected):
        convert(tmp_path / "from", tmp_path / "to", lint_kinds.TINY)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_on_a_mixture_of_experts(kind: str, tmp_path: Path) -> None:
    """Whose experts are stacked on loading, and are compared all the same."""
    moe_kinds.write_base(kind, tmp_path / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", use_dora=True, target_modules=["q_proj"])
    answers = logits(lint_kinds.saved(tmp_path / "from", config, moe_kinds.base_model(kind)))
    done = convert(tmp_path / "from", tmp_path / "to", tmp_path / "base", rank=64)
    made = PeftModel.from_pretrained(moe_kinds.base_model(kind), tmp_path / "to")
    torch.testing.assert_close(logits(made), answers, rtol=1e-4, atol=1e-3)
    assert done.error < 1e-4


def test_experts_that_were_trained_whole_are_refused(tmp_path: Path) -> None:
    moe_kinds.write_base("qwen3_moe", tmp_path / "base")
    config = peft.VeraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["experts"]
    )
    lint_kinds.saved(tmp_path / "from", config, moe_kinds.base_model("qwen3_moe"))
    with pytest.raises(Rejected, match="experts"):
        convert(tmp_path / "from", tmp_path / "to", tmp_path / "base")
