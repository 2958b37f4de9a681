"""What the server renders is what training saw, or the run is refused with the first difference.

That it is what vLLM renders, tests/e2e/test_parity.py shows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import AutoTokenizer

from adapters import bases
from adapters.errors import Rejected
from adapters.registry import Registry
from adapters.serving import Serving
from train.parity import Parity, check_parity, stop_tokens
from train.recipe import Recipe
from train.rows.forms import Row
from train.run import Job, run
from train.tokens import speech

TINY = bases.resolve("tiny").path
TEMPLATES = Path(trl.__file__).parent / "chat_templates"


def tokenizer(template: str | None = None) -> Any:
    made = AutoTokenizer.from_pretrained(TINY)
    if template is not None:
        made.chat_template = template
    return made


def row(prompt: str = "Where is my card?", answer: str = "In the post.", role: str = "user") -> Row:
    asked = [{"role": "user", "content": prompt}]
    if role != "user":
        asked.insert(0, {"role": role, "content": "Be brief."})
    return Row("d.jsonl", 7, asked, [{"role": "assistant", "content": answer}])


def test_rows_that_are_equal_are_counted_with_the_token_that_ends_them() -> None:
    rows = [row(), row("你好", "您好，请问有什么可以帮您？"), row(role="system")]
    assert check_parity(rows, tokenizer(), TINY) == Parity(3, "<|im_end|>", {})


def test_a_template_that_thinks_unless_told_not_to_is_told_not_to() -> None:
    parity = check_parity([row()], tokenizer((TEMPLATES / "qwen3.jinja").read_text()), TINY)
    assert parity
    assert parity.as_json()["chat_template_kwargs"] == {"enable_thinking": False}
    instruct = tokenizer((TEMPLATES / "qwen3_instruct_2507.jinja").read_text())
    parity = check_parity([row()], instruct, TINY)
    assert parity
    assert parity.chat_template_kwargs == {}


def test_a_template_that_is_another_once_it_is_answered_is_refused() -> None:
    plain = tokenizer().chat_template
    polite = (
        "{% if not add_generation_prompt %}{{ '<|im_start|>system\\nHi<|im_end|>' }}{% endif %}"
    )
    with pytest.raises(Rejected, match=r"d\.jsonl:7: token 1 differs") as refused:
        check_parity([row()], tokenizer(polite + plain), TINY)
    assert "training sees 's" in str(refused.value)
    assert "the server 'user'" in str(refused.value)
    assert "copy of the base" in refused.value.fix


def test_a_prompt_whose_last_token_runs_into_the_answer_is_refused() -> None:
    glued = (
        "{% for m in messages %}{% if m.role == 'assistant' %}in"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}in{% endif %}"
    )
    with pytest.raises(Rejected, match="between training and serving") as refused:
        check_parity([row("Hello", "g the end")], tokenizer(glued), TINY)
    assert "same text in other tokens" in refused.value.fix


def test_a_template_that_loops_over_parts_gets_parts_in_training_too() -> None:
    parts = tokenizer().chat_template.replace(
        "{%- set content = message['content'] | default('', true) %}",
        "{%- set all = namespace(text='') %}"
        "{%- for part in message['content'] %}{% set all.text = all.text + part.text %}{% endfor %}"
        "{%- set content = all.text %}",
    )
    assert check_parity([row()], tokenizer(parts), TINY)
    ids, _ = speech(row().chat, tokenizer(parts))
    assert "Where is my card?<|im_end|>" in tokenizer().decode(ids)
    assert ids == speech(row().chat, tokenizer())[0]


def test_a_developer_that_the_template_does_not_know_is_the_system_in_training_too() -> None:
    assert check_parity([row(role="developer")], tokenizer(), TINY)
    ids, _ = speech(row(role="developer").chat, tokenizer())
    assert tokenizer().decode(ids).startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_markers_round_more_than_the_end_do_not_matter() -> None:
    """TRL's own training templates teach the line break after it, too."""
    for name in ("qwen2_5_training", "qwen3_training", "lfm2_training"):
        template = (TEMPLATES / f"{name}.jinja").read_text()
        parity = check_parity([row()], tokenizer(template), TINY)
        assert parity
        assert parity.stop_token == "<|im_end|>"


def test_an_end_at_which_the_server_does_not_stop_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    raw = tokenizer()
    raw.eos_token = "<|endoftext|>"
    with pytest.raises(Rejected, match=r"ends an answer with '<\|im_end\|>'.*would talk on"):
        check_parity([row()], raw, base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert check_parity([row()], raw, base)
    (base / "generation_config.json").unlink()  # then config.json says it
    assert check_parity([row()], raw, base)


def test_where_nothing_can_be_compared_there_is_no_parity() -> None:
    bare = tokenizer()
    bare.chat_template = None
    assert check_parity([row()], bare, TINY) is None
    asked = Row("d.jsonl", 1, [{"role": "user", "content": "a"}], [])
    assert check_parity([asked], tokenizer(), TINY) is None


def test_the_server_stops_at_the_tokenizers_end_and_at_the_generation_configs() -> None:
    assert stop_tokens(tokenizer(), None) == {2}
    assert stop_tokens(tokenizer(), 0) == {0, 2}
    assert stop_tokens(tokenizer(), [5, 0]) == {0, 2, 5}


def written(folder: Path, *prompts: list[dict[str, str]]) -> str:
    rows = [
        {"messages": [*prompt, {"role": "assistant", "content": f"Answer {number}."}]}
        for number, prompt in enumerate(prompts)
    ]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "d.jsonl")


def test_a_run_keeps_what_requests_must_carry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "thinker"
    shutil.copytree(TINY, base)
    shutil.copy(TEMPLATES / "qwen3.jinja", base / "chat_template.jinja")
    dataset = written(tmp_path, *([{"role": "user", "content": f"Q {n}"}] for n in range(9)))
    recipe = Recipe(tuner="lora", r=2, max_steps=2, test_size=0)
    job = Job(dataset, str(base), "support", recipe, serving=Serving.from_json({"top_k": 5}))
    version = run(job, Registry.open(tmp_path / "registry"))
    trained = {"chat_template_kwargs": {"enable_thinking": False}}
    assert version.manifest.serving == {**trained, "top_k": 5}
    assert run(job, Registry.open(tmp_path / "registry")).ref == version.ref, "finished already"
    assert version.manifest.dataset["parity"]["rows"] == 9
    assert (
        '"chat_template_kwargs": {"enable_thinking": false}'
        in (version.path / "README.md").read_text()
    )
    assert "! This base thinks before it answers" in capsys.readouterr().err


def test_a_run_whose_rows_differ_is_stopped_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.loop.train", None)  # never reached
    base = tmp_path / "polite"
    shutil.copytree(TINY, base)
    hi = "{% if not add_generation_prompt %}{{ '<|im_start|>system\\nHi<|im_end|>' }}{% endif %}"
    (base / "chat_template.jinja").write_text(hi + tokenizer().chat_template)
    dataset = written(tmp_path, [{"role": "user", "content": "a"}])
    registry = Registry.open(tmp_path / "registry")
    with pytest.raises(Rejected, match=r"d\.jsonl:1: token \d+ differs"):
        run(Job(dataset, str(base), "support", Recipe(test_size=0)), registry)
    assert registry.names() == []
