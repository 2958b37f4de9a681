"""Reward models and other classifiers: taken for what they are, with their head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from adapters.lint import check_folder
from adapters.lint.classifier import HEAD_KEY
from tests.conftest import LLAMA, MakeAdapter

HEAD = numpy.ones((1, LLAMA["hidden_size"]), dtype="float32")
CONFIG: dict[str, Any] = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}


@pytest.fixture
def folder(make_adapter: MakeAdapter) -> Path:
    return make_adapter(config=CONFIG, tensors={HEAD_KEY: HEAD})


def test_it_is_servable_and_said_to_be_served_by_a_classification_server_only(folder: Path) -> None:
    report = check_folder(folder, LLAMA)
    assert report.findings == ()
    (warning,) = report.warnings
    assert warning.check == "classifier"
    assert "adapters serve" in warning.consequence
    assert '"num_labels": 1' in warning.fix
    assert "LlamaForSequenceClassification" in warning.fix
    assert report.peft["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize(
    ("config", "head", "check"),
    [
        (CONFIG, None, "missing"),
        (CONFIG, HEAD[:, :-1], "base"),
        (CONFIG, HEAD.astype("float64"), "type"),
        (CONFIG, HEAD * numpy.nan, "value"),
        (CONFIG | {"modules_to_save": ["score", "lm_head"]}, HEAD, "field"),
        (CONFIG | {"modules_to_save": ["classifier"]}, HEAD, "field"),
        (CONFIG | {"modules_to_save": None}, HEAD, "key"),
        (CONFIG | {"task_type": "CAUSAL_LM"}, HEAD, "field"),
    ],
    ids=["none", "narrow", "double", "nan", "lm_head", "other", "unsaid", "causal"],
)
def test_what_vllm_would_not_serve(
    make_adapter: MakeAdapter, config: dict[str, Any], head: numpy.ndarray | None, check: str
) -> None:
    folder = make_adapter(config=config, tensors={HEAD_KEY: head} if head is not None else {})
    assert check in {finding.check for finding in check_folder(folder, LLAMA).findings}
