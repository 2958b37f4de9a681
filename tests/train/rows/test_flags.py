"""What a reader should look at is found, and a secret is never repeated."""

from __future__ import annotations

import pytest

from train.rows.flags import language, placeholders, secrets


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("my key is AKIAIOSFODNN7EXAMPLE, please", "AWS Access Key"),
        ("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", "GitHub Token"),
        ("hf_" + "aBcDeFgHiJ" * 3 + "klmn", "Hugging Face Token"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc", "Private Key"),
        ("see https://root:hunter2@example.com/x", "Basic Auth Credentials"),
    ],
)
def test_secrets(text: str, kind: str) -> None:
    assert list(secrets(f"Before it.\n{text}\nAfter it.")) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "My password does not work, and the token is lost.",
        "Call 0800 123 456 or write to someone@example.com.",
        "The commit is 3f786850e387550fdab836ed7e6dc881de23001b.",
        "请问我的银行卡什么时候到？",
    ],
)
def test_prose_holds_no_secret(text: str) -> None:
    assert list(secrets(text)) == []


def test_placeholders() -> None:
    text = "I am {{name}} of {{ author }}, {{name}}. [INSERT DATE] <your name> {x} [1] <b>"
    assert placeholders(text) == ["{{name}}", "{{ author }}", "[INSERT DATE]"]
    assert placeholders("Dear <YOUR NAME>") == ["<YOUR NAME>"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("How do I get my lost card back, please?", "en"),
        ("Wie bekomme ich meine verlorene Karte zurück?", "de"),
        ("请问我的银行卡什么时候到？", "zh"),
        ("ok", "short"),
        ("12 + 34 = 46", "short"),
    ],
)
def test_language(text: str, code: str) -> None:
    assert language(text) == code
