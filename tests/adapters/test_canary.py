"""Recorded canary answers: what is read is what was written, and how far apart two of them are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.canary import distance, prompts, read, to_bytes
from adapters.errors import InvalidAdapter
from adapters.lint import check_adapter
from tests.conftest import MakeAdapter

SAID = ({3: -0.5, 17: -1.25, 4: -3.0},)


def test_prompts_never_change_and_are_tokens_that_the_base_knows() -> None:
    assert prompts(4096) == ((0, 396),)
    assert all(0 <= token < 64 for prompt in prompts(64) for token in prompt)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "canary.json"
    path.write_bytes(to_bytes(SAID))
    assert read(path) == SAID
    path.write_text(json.dumps(json.loads(path.read_text()) | {"form": 2}))
    assert read(path) == (), "of prompts that are not ours"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"form": 1}', '{"form": 1, "answers": []}', '{"form": 1, "answers": [{}]}',
     '{"form": 1, "answers": [{"3": NaN}]}', '{"form": 1, "answers": [{"x": 1}]}',
     '{"form": 1, "answers": [{"3": "a"}]}', '{"form": 1, "answers": 7}', "[" * 60_000],
)  # fmt: skip
def test_anything_else_is_refused_before_it_is_published(
    make_adapter: MakeAdapter, content: str
) -> None:
    folder = make_adapter()
    (folder / "canary.json").write_text(content)
    with pytest.raises(InvalidAdapter, match=r"canary\.json"):
        read(folder / "canary.json")
    assert [finding.check for finding in check_adapter(folder).findings] == ["canary"]


def test_the_distance_is_the_largest_and_a_choice_not_served_is_at_most_as_likely_as_the_last() -> (
    None
):
    assert distance(SAID, SAID) == 0
    assert distance(SAID, [{3: -0.5, 17: -1.0, 4: -3.1}]) == pytest.approx(0.25)
    assert distance(SAID, [{3: -0.5, 17: -1.25, 9: -3.01}]) == pytest.approx(0.01)
    assert distance(SAID, [{9: -0.1, 8: -4.0}]) == pytest.approx(3.5)
    assert distance(SAID, [{3: -0.5}]) == 0, "vLLM was told to give no more"
