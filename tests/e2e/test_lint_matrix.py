"""Lint says servable exactly when the real vLLM answers as PEFT does, and not as the base does."""

from __future__ import annotations

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
from tests.e2e import changed_base_kinds, lint_kinds, offline
from tests.e2e.offline import ONE_THREAD
from train.convert import EXACT, Conversion, convert

KINDS = {**changed_base_kinds.KINDS, **lint_kinds.KINDS}  # the last ones spoil the engine
FIXED = {**changed_base_kinds.FIXED, **lint_kinds.FIXED}
PROMPTS = [
    [5, 77, 431, 12, 90, 1033, 7],
    [640, 8, 8, 1500, 21],
    [9],
    [1201, 3, 77, 2047, 64, 64, 15, 300, 41, 999, 18, 6],
]
MAX_TOKENS = 16
TOLERANCE = 1e-3
"""Of a token's log-probability, in nats; both compute in float32."""


@dataclass(frozen=True)
class Answers:
    """The greedy tokens to each prompt, and the natural logarithm of each one's probability."""

    tokens: list[list[int]]
    logprobs: list[list[float]]

    def near(self, other: Answers) -> bool:
        """Say whether the tokens are the same and their probabilities within `TOLERANCE`."""
        if self.tokens != other.tokens:
            return False
        apart = (torch.tensor(self.logprobs) - torch.tensor(other.logprobs)).abs().max()
        return float(apart) <= TOLERANCE  # and not where it is NaN


@dataclass(frozen=True)
class Outcome:
    """What became of one kind."""

    lint: list[str]
    """The checks that found something; empty is servable."""
    peft: Answers | None
    """PEFT's answers; None where it does not take the whole file, or computes no number."""
    vllm: dict[str, Any]
    base: Answers
    meant: Answers | None = None
    """Of a converted one: PEFT's answers by what was converted."""
    error: float = 0.0
    """Of a converted one: what the conversion says that it lost, relative."""

    @property
    def served(self) -> bool:
        """Whether vLLM serves what PEFT does, and not the base."""
        said = self.answers
        return bool(said and self.peft and said.near(self.peft) and not said.near(self.base))

    @property
    def answers(self) -> Answers | None:
        """What vLLM answers; None where it refuses."""
        return None if "refused" in self.vllm else Answers(**self.vllm)

    def __str__(self) -> str:
        if said := self.vllm.get("refused"):
            what = f"refused: {said.splitlines()[0][:70]}"
        elif self.served:
            what = "served as PEFT"
        elif self.answers and self.answers.near(self.base):
            what = "answered as the base"
        elif self.peft is None:
            what = "answered, and PEFT does not"
        else:
            what = "answered otherwise than PEFT"
        return f"{', '.join(self.lint) or 'servable'} | {what}"


@torch.inference_mode()
def greedy(model: torch.nn.Module) -> Answers | None:
    """Return the greedy continuations by transformers; None from logits that are not finite."""
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS])
    tokens = torch.zeros(len(PROMPTS), int(lengths.max()) + MAX_TOKENS, dtype=torch.long)
    for row, prompt in zip(tokens, PROMPTS, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    rows, chosen = torch.arange(len(PROMPTS)), []
    for step in range(MAX_TOKENS):
        # What stands to the right of a token does not reach it.
        logits = model(input_ids=tokens[:, : int(lengths.max()) + step]).logits
        if not logits.isfinite().all():
            return None
        best = logits[rows, lengths - 1 + step].log_softmax(-1).max(-1)
        tokens[rows, lengths + step] = best.indices
        chosen.append(best.values)
    said = [row[n : n + MAX_TOKENS] for row, n in zip(tokens, lengths.tolist(), strict=True)]
    return Answers([row.tolist() for row in said], torch.stack(chosen, 1).tolist())


def by_peft(folder: Path, *, whole: bool = True) -> Answers | None:
    """Return PEFT's answers; None if it fails or, of the `whole`, leaves tensors out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(lint_kinds.base_model(), folder)
            taken = get_peft_model_state_dict(model, save_embedding_layers=False)
            with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
                given = {name for name in file.keys() if not name.endswith(".base_layer.weight")}  # noqa: SIM118
                if whole and given != set(taken):
                    return None
            return greedy(model.eval())
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        return None


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    place = tmp_path_factory.mktemp("kinds")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folders, live = lint_kinds.write_all(place, KINDS)
    fixes: dict[str, Conversion] = {}
    for kind in FIXED:
        name, out = f"{kind}, fixed", place / f"fixed {len(fixes)}"
        initial = changed_base_kinds.initial_of(folders[kind])
        fixes[name] = convert(folders[kind], out, lint_kinds.TINY, initial=initial)
        folders = {name: out, **folders}  # before the last ones, which spoil the engine
    request = {
        "base": str(lint_kinds.TINY),
        "prompts": PROMPTS,
        "max_tokens": MAX_TOKENS,
        "folders": {kind: str(folder) for kind, folder in folders.items()},
    }
    try:
        with offline.asking("tests.e2e.raw_vllm", place, request, **ONE_THREAD) as asked:
            base, config = greedy(lint_kinds.base_model()), read_base_config(lint_kinds.TINY)
            said = {  # while vLLM computes too
                kind: greedy(live[kind]) if kind in live else by_peft(folder)
                for kind, folder in folders.items()
                if kind not in lint_kinds.OF_ANOTHER_BASE
            }
            raw = asked.said()
    finally:
        torch.set_num_threads(threads)
    assert base
    assert Answers(**raw[""]).near(base), "the engine and transformers do not agree on the base"
    found = {}
    for kind, folder in folders.items():
        report = check_folder(folder, config, base_id=lint_kinds.BASE_ID, base_path=lint_kinds.TINY)
        checks = sorted({finding.check for finding in report.findings})
        found[kind] = Outcome(checks, said.get(kind), raw[kind], base)
        if kind in fixes:
            source = FIXED[kind.removesuffix(", fixed")]
            of_live = greedy(live[source]) if source in live else None
            meant = of_live or by_peft(folders[source], whole=False)
            found[kind] = replace(found[kind], meant=meant, error=fixes[kind].error)
    return found


def test_at_least_25_kinds() -> None:
    assert len(KINDS) >= 25


@pytest.mark.parametrize("kind", KINDS)
def test_lint_says_what_the_engine_does(outcomes: dict[str, Outcome], kind: str) -> None:
    found = outcomes[kind]
    print(f"{kind} | {found}")
    assert (not found.lint) == found.served, f"lint: {found}"


@pytest.mark.parametrize("kind", FIXED)
def test_what_was_converted_is_served(outcomes: dict[str, Outcome], kind: str) -> None:
    """And where no error is told, exactly as PEFT answers by what was converted."""
    found = outcomes[f"{kind}, fixed"]
    print(f"{kind}, fixed | {found} | error {found.error:.2g}")
    assert not found.lint
    assert found.served
    assert found.meant
    if found.error <= EXACT:
        assert found.answers
        assert found.answers.tokens == found.meant.tokens
