"""Another tokenizer or chat template is told by the tokens it gives, not by its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters import bases
from adapters.lint import check_adapter, read_base_config, tokens
from tests.conftest import LLAMA

TINY = bases.resolve("tiny").path


def added(content: str) -> str:
    """A tokenizer with one token more."""
    tokenizer = json.loads(content)
    token = {"id": 2047, "content": "naïve", "special": False, "normalized": False}
    strips = {"single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append({**token, **strips})
    return json.dumps(tokenizer)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tokenizer.json", str, None),
        ("tokenizer.json", lambda content: json.dumps(json.loads(content), indent=7), None),
        ("tokenizer.json", added, "naïve café"),
        ("tokenizer.json", lambda content: content[:-100], "differs from the base's"),
        ("tokenizer.json", lambda _: "[" * 100_000, "differs from the base's"),
        ("chat_template.jinja", lambda content: "{# ours #}" + content, None),
        ("chat_template.jinja", lambda c: c.replace("{%- generation %}", "{{- '' }}{%- if 1 %}")
         .replace("{%- endgeneration %}", "{%- endif %}"), None),
        ("chat_template.jinja", lambda c: c.replace("{%- if add_", "{%- if not add_"), "user: W"),
        ("chat_template.jinja", lambda c: c.replace("message['role']", "message.role"), None),
        ("chat_template.jinja", lambda c: c + "{% if messages|length == 3 %}!{% endif %}", "Sure"),
        ("chat_template.jinja", lambda c: c + "{{ raise_exception('no') }}", "user: What"),
        ("chat_template.jinja", lambda c: c + "{{ ''.__class__.__mro__ }}", "user: What"),
        ("chat_template.jinja", lambda c: c + "{% set x = 'x' * 10 ** 12 %}", "differs from"),
        ("tokenizer.model", lambda _: "other", "differs from the base's"),
    ],
)  # fmt: skip
def test_tokens_are_compared(
    adapter_folder: Path, name: str, change: Callable[[str], str], said: str | None
) -> None:
    file = TINY / name
    (adapter_folder / name).write_text(change(file.read_text() if file.exists() else ""))
    report = check_adapter(adapter_folder, LLAMA, base_path=TINY)
    assert report.findings == ()
    assert [warning.where for warning in report.warnings] == [name] * bool(said)
    assert not said or said in report.warnings[0].message


def test_a_template_that_does_not_end_is_stopped(
    adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (adapter_folder / "chat_template.jinja").write_text(endless)
    monkeypatch.setattr(tokens, "_LIMIT_S", 2)
    report = check_adapter(adapter_folder, LLAMA, base_path=TINY)
    assert [warning.where for warning in report.warnings] == ["chat_template.jinja"]


def test_templates_are_rendered_as_transformers_does(tmp_path: Path) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    odd = "{%- for m in messages %}\n  {% generation %}\n{{ m | tojson }}\n  {% endgeneration %}\n"
    odd += "{{ bos_token }}{% if loop.first %}{% continue %}{% endif %}{% endfor %}\n\n"
    for template in (odd, (TINY / "chat_template.jinja").read_text()):
        (tmp_path / "chat_template.jinja").write_text(template)
        for chat in tokens._CHATS:
            theirs, _ = render_jinja_template(
                [list(chat)], chat_template=template, add_generation_prompt=True, bos_token="<bos>"
            )
            assert tokens._rendered(tmp_path / "chat_template.jinja", chat, True) == theirs[0]


def test_the_base_s_own_files_are_not_read_twice(
    adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.lint.identity.differing", lambda *_: 1 / 0)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (adapter_folder / name).write_bytes((TINY / name).read_bytes())
    config = read_base_config(TINY)
    assert not [
        warning
        for warning in check_adapter(adapter_folder, config, base_path=TINY).warnings
        if warning.check == "tokenizer"
    ]
