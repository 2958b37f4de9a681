"""serving.json: what it may hold, what is refused, and what one version's says over another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from adapters.errors import InvalidAdapter, UsageError
from adapters.importing import import_adapter
from adapters.registry import Registry
from adapters.serving import SAMPLING, Serving
from tests.adapters.conftest import Run
from tests.conftest import BASE, MakeAdapter

SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
SHOTS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
WHOLE: dict[str, Any] = {
    "system": "Be brief.",
    "shots": SHOTS,
    "chat_template_kwargs": {"enable_thinking": False},
    "stop": ["END"],
    "temperature": 0.2,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.1,
    "presence_penalty": -0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "seed": 7,
    "max_tokens": 64,
    "response_format": SCHEMA,
    "max_model_len": 512,
}


def serving(**chosen: Any) -> some.SearchStrategy[dict[str, Any]]:
    """Some of the keys, each with its value."""
    return some.sets(some.sampled_from(sorted(WHOLE))).map(
        lambda keys: {key: WHOLE[key] for key in keys}
    )


def test_what_is_chosen_is_kept_and_nothing_else(tmp_path: Path) -> None:
    assert Serving.from_json(WHOLE).as_json() == WHOLE
    assert Serving.from_json({}).as_json() == {}
    assert Serving.from_json({"stop": "END"}).as_json() == {"stop": ["END"]}
    assert Serving.from_json({"temperature": 0}).as_json() == {"temperature": 0}, "0 is a choice"
    (tmp_path / "s.json").write_bytes(Serving.from_json(WHOLE).to_bytes())
    assert Serving.read(tmp_path / "s.json") == Serving.from_json(WHOLE)
    assert set(SAMPLING) < WHOLE.keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"temprature": 0.2}, "Did you mean temperature"),
        ({"stop_strings": ["x"]}, "Did you mean stop"),
        ({"temperature": 2.1}, "at least 0 and at most 2"),
        ({"temperature": "0.2"}, "a number"),
        ({"temperature": True}, "a number"),
        ({"top_p": 0}, "above 0"),
        ({"top_k": 1.5}, "a whole number"),
        ({"max_tokens": 0}, "at least 1"),
        ({"repetition_penalty": 0}, "above 0"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "at most 4"),
        ({"stop": [""]}, "no text"),
        ({"system": ""}, "empty"),
        ({"system": "\ud800"}, "It takes text"),
        ({"shots": SHOTS[:1]}, "not the assistant's"),
        ({"shots": SHOTS[::-1]}, "turn 1 is not the user's"),
        ({"shots": [{"role": "user"}, SHOTS[1]]}, "turn 1"),
        ({"chat_template_kwargs": []}, "no object"),
        ({"response_format": {"type": "text"}}, "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "no schema"),
        ({"max_model_len": 1}, "tokens"),
        ({"on": "support@v3"}, "in full"),
        ([], "no JSON object"),
    ],
)
def test_what_cannot_be_meant_is_refused(content: Any, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Serving.from_json(content)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "text", ["{", '{"seed": NaN}', '{"seed": 1, "seed": 2}', "[" * 10**5, '"\xff"']
)
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text, "latin-1")
    with pytest.raises(UsageError, match=r"cannot be read|is no JSON object"):
        Serving.read(tmp_path / "s.json")
    with pytest.raises(UsageError, match="cannot be read"):
        Serving.read(tmp_path / "none.json")


@given(serving(), serving())
@settings(max_examples=50)
def test_over_another_each_choice_is_ones_own_or_the_others(
    mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    over = Serving.from_json(mine).over(Serving.from_json(theirs))
    assert over.as_json() == {**theirs, **mine}
    assert over.over(Serving.from_json(theirs)) == over


def test_template_arguments_are_taken_one_by_one() -> None:
    mine = Serving.from_json({"chat_template_kwargs": {"a": 1, "b": 1}})
    theirs = Serving.from_json({"chat_template_kwargs": {"b": 2, "c": 2}})
    assert mine.over(theirs).chat_template_kwargs == {"a": 1, "b": 1, "c": 2}


def test_they_are_of_the_digest_and_of_the_manifest(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    registry = Registry.open(tmp_path)
    folder = make_adapter()
    plain = registry.publish("support", folder, base=BASE)
    (folder / "serving.json").write_text('{"temperature": 0.2}')
    cool = registry.publish("support", folder, base=BASE)
    assert (plain.manifest.serving, cool.manifest.serving) == ({}, {"temperature": 0.2})
    assert plain.manifest.digest != cool.manifest.digest
    assert cool.manifest.kind == "lora"


@pytest.mark.parametrize("content", ['{"temprature": 1}', '{"on": "a@sha256:%s"}' % ("0" * 64)])
def test_an_adapter_whose_defaults_cannot_be_applied_is_not_published(
    content: str, tmp_path: Path, adapter_folder: Path
) -> None:
    (adapter_folder / "serving.json").write_text(content)
    with pytest.raises(InvalidAdapter, match=r"serving\.json"):
        Registry.open(tmp_path).publish("support", adapter_folder, base=BASE)


def test_import_takes_them_from_a_file_or_from_beside_the_adapter(
    run: Run, adapter_folder: Path, tmp_path: Path
) -> None:
    (adapter_folder / "serving.json").write_text('{"temperature": 0.1}')
    (tmp_path / "mine.json").write_text('{"stop": ["END"], "top_k": 5}')
    (tmp_path / "wrong.json").write_text('{"topk": 5}')
    line = f"import {adapter_folder} --name support --base tiny"
    registry = Registry.open()
    # The small adapter does not fit the tiny base, which is not what is tested here.
    code, _, said = run(f"{line} --serving {tmp_path}/wrong.json")
    assert (code, registry.names()) == (2, [])
    assert "Did you mean top_k" in said


def test_import_publishes_what_is_asked_for(
    tmp_path: Path, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "small"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "unknown"}))
    (base / "model.safetensors").write_bytes(b"")
    (adapter_folder / "serving.json").write_text('{"temperature": 0.1}')
    registry = Registry.open(tmp_path / "registry")
    mine = Serving.from_json({"stop": "END"})
    beside = import_adapter(registry, str(adapter_folder), "a", base=str(base)).version
    asked = import_adapter(registry, str(adapter_folder), "a", base=str(base), serving=mine).version
    assert beside.manifest.serving == {"temperature": 0.1}
    assert asked.manifest.serving == {"stop": ["END"]}
