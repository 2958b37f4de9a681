"""Lint says servable exactly when the real vLLM answers as PEFT does, and not as the base does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open

from adapters.lint import check_folder, read_base_config
from tests.e2e import lint_kinds
from train.convert import EXACT, Conversion, convert

PROMPTS = [[5, 77, 431, 12, 90, 1033, 7], [640, 8, 8, 1500, 21]]
MAX_TOKENS = 8


@dataclass(frozen=True)
class Outcome:
    """What became of one kind."""

    lint: list[str]
    """The checks that found something; empty is servable."""
    peft: list[list[int]] | None
    """PEFT's answers; None where it does not take the whole file, or computes no number."""
    vllm: dict[str, Any]
    base: list[list[int]]
    meant: list[list[int]] | None = None
    """Of a converted one: PEFT's answers by what was converted."""
    error: float = 0.0
    """Of a converted one: what the conversion says that it lost, relative."""

    @property
    def served(self) -> bool:
        """Whether vLLM serves what PEFT does, and not the base."""
        tokens = self.vllm.get("tokens")
        return tokens is not None and tokens == self.peft and tokens != self.base

    def __str__(self) -> str:
        if said := self.vllm.get("refused"):
            what = f"refused: {said.splitlines()[0][:70]}"
        elif self.served:
            what = "served as PEFT"
        elif self.vllm["tokens"] == self.base:
            what = "answered as the base"
        else:
            what = "answered otherwise than PEFT"
        return f"{', '.join(self.lint) or 'servable'} | {what}"


@torch.inference_mode()
def greedy(model: torch.nn.Module) -> list[list[int]] | None:
    """Return each prompt's greedy continuation by transformers; None from logits that are NaN."""
    said = []
    for prompt in PROMPTS:
        tokens = torch.tensor([prompt])
        for _ in range(MAX_TOKENS):
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
            if not logits.isfinite().all():
                return None
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        said.append(tokens[0, len(prompt) :].tolist())
    return said


def by_peft(folder: Path, *, whole: bool = True) -> list[list[int]] | None:
    """Return PEFT's answers; None if it fails or, of the `whole`, leaves tensors out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(lint_kinds.base_model(), folder)
            taken = get_peft_model_state_dict(model, save_embedding_layers=False)
            with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
                if whole and set(file.keys()) != set(taken):
                    return None
            return greedy(model.eval())
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        return None


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    place = tmp_path_factory.mktemp("kinds")
    folders, live = lint_kinds.write_all(place)
    fixes: dict[str, Conversion] = {}
    for kind in lint_kinds.FIXED:
        name, out = f"{kind}, fixed", place / f"fixed {len(fixes)}"
        fixes[name] = convert(folders[kind], out, lint_kinds.TINY)
        folders = {name: out, **folders}  # before the last ones, which spoil the engine
    request, answer = place / "request.json", place / "answer.json"
    content = {
        "base": str(lint_kinds.TINY),
        "prompts": PROMPTS,
        "max_tokens": MAX_TOKENS,
        "folders": {kind: str(folder) for kind, folder in folders.items()},
    }
    request.write_text(json.dumps(content))
    with (place / "vllm.log").open("wb") as log:
        child = subprocess.run(
            [sys.executable, "-m", "tests.e2e.raw_vllm", str(request), str(answer)],
            stdout=log,
            stderr=log,
            timeout=400,
            env={
                **os.environ,
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_PLUGINS": "",
            },
        )
    assert child.returncode == 0, (place / "vllm.log").read_text(errors="replace")[-3000:]
    raw = json.loads(answer.read_text())
    base, config = greedy(lint_kinds.base_model()), read_base_config(lint_kinds.TINY)
    assert base
    assert raw[""]["tokens"] == base, "the engine and transformers do not agree on the base"
    found = {}
    for kind, folder in folders.items():
        report = check_folder(folder, config, base_id="tiny", base_path=lint_kinds.TINY)
        checks = sorted({finding.check for finding in report.findings})
        said = greedy(live[kind]) if kind in live else by_peft(folder)
        found[kind] = Outcome(checks, said, raw[kind], base)
        if kind in fixes:
            meant = by_peft(folders[lint_kinds.FIXED[kind.removesuffix(", fixed")]], whole=False)
            found[kind] = replace(found[kind], meant=meant, error=fixes[kind].error)
    return found


def test_at_least_25_kinds() -> None:
    assert len(lint_kinds.KINDS) >= 25


@pytest.mark.parametrize("kind", lint_kinds.KINDS)
def test_lint_says_what_the_engine_does(outcomes: dict[str, Outcome], kind: str) -> None:
    found = outcomes[kind]
    print(f"{kind} | {found}")
    assert (not found.lint) == found.served, f"lint: {found}"


@pytest.mark.parametrize("kind", lint_kinds.FIXED)
def test_what_was_converted_is_served(outcomes: dict[str, Outcome], kind: str) -> None:
    """And where no error is told, exactly as PEFT answers by what was converted."""
    found = outcomes[f"{kind}, fixed"]
    print(f"{kind}, fixed | {found} | error {found.error:.2g}")
    assert not found.lint
    assert found.served
    assert found.meant
    if found.error <= EXACT:
        assert found.vllm["tokens"] == found.meant
