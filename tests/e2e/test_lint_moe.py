"""On mixtures of experts too lint says servable exactly when vLLM answers as PEFT does.

vLLM's CPU build has no kernel for experts under LoRA; `tests/e2e/torch_experts.py` supplies it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights

from adapters.lint import check_folder, read_base_config
from tests.e2e import moe_kinds, offline
from tests.e2e.offline import ONE_THREAD, Asked
from tests.e2e.test_lint_matrix import MAX_TOKENS, PROMPTS, Answers, Outcome, greedy


def by_peft(folder: Path, model_type: str) -> Answers | None:
    """Return PEFT's answers; None if it fails, leaves tensors out or finds too few."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(moe_kinds.base_model(model_type), folder)
            loaded = set_peft_model_state_dict(model, load_peft_weights(str(folder)))
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if loaded.unexpected_keys or any(".lora_" in key for key in loaded.missing_keys):
        return None
    return greedy(model.eval())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixtures")


@dataclass(frozen=True)
class Base:
    """A mixture of experts, its adapters, and a vLLM that is asked about them."""

    path: Path
    folders: dict[str, Path]
    asked: Asked


@contextmanager
def asking(place: Path, model_type: str) -> Iterator[Base]:
    """Write a base and each kind of adapter; ask vLLM beside the block."""
    base, folders = place / model_type, {}
    moe_kinds.write_base(model_type, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of what is meant here
        for number, (kind, write) in enumerate(moe_kinds.KINDS[model_type].items()):
            folders[kind] = place / f"{model_type} {number}"
            write(model_type, folders[kind])
    request = {
        "base": str(base),
        "prompts": PROMPTS,
        "max_tokens": MAX_TOKENS,
        "folders": {kind: str(folder) for kind, folder in folders.items()},
    }
    asked_in = place / f"{model_type} asked"
    asked_in.mkdir()
    with offline.asking("tests.e2e.torch_experts", asked_in, request, **ONE_THREAD) as asked:
        yield Base(base, folders, asked)


@pytest.fixture(scope="module")
def bases(place: Path) -> Iterator[dict[str, Base]]:
    """All at once, as what takes long is to start."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(asking(place, name)) for name in moe_kinds.KINDS}


@pytest.fixture(scope="module")
def outcomes(bases: dict[str, Base]) -> dict[str, dict[str, Outcome]]:
    """What becomes of each kind, by base."""
    return {model_type: outcomes_on(base, model_type) for model_type, base in bases.items()}


def outcomes_on(base: Base, model_type: str) -> dict[str, Outcome]:
    said, config = greedy(moe_kinds.base_model(model_type)), read_base_config(base.path)
    peft = {kind: by_peft(folder, model_type) for kind, folder in base.folders.items()}
    raw = base.asked.said()
    assert said
    assert Answers(**raw[""]).near(said), "the engine and transformers do not agree on the base"
    found = {}
    for kind, folder in base.folders.items():
        report = check_folder(folder, config, base_path=base.path)
        checks = sorted({finding.check for finding in report.findings})
        if not checks:
            assert report.matched == len(report.modules) > 0
        found[kind] = Outcome(checks, peft[kind], raw[kind], said)
    return found


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [(base, kind) for base, kinds in moe_kinds.KINDS.items() for kind in kinds],
)
def test_lint_says_what_the_engine_does(
    outcomes: dict[str, dict[str, Outcome]], model_type: str, kind: str
) -> None:
    found = outcomes[model_type][kind]
    print(f"{model_type} | {kind} | {found}")
    assert (not found.lint) == found.served, f"lint: {found}"
