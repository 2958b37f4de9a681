"""Scores of generated texts, in more scripts than one, against values made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu import corpus_bleu

from train.scores import bleu_tokenizer, scores, words


def test_what_is_right_scores_full_marks_and_what_is_wrong_none() -> None:
    good = scores(["the cat sat on the mat", " ok\n"], ["the cat sat on the mat", "ok"])
    assert good["eval_exact_match"] == 1
    assert good["eval_exact_match_low"] == pytest.approx(0.3424, abs=1e-4)
    assert good["eval_exact_match_high"] == 1
    assert good["eval_bleu"] == pytest.approx(100)
    assert good["eval_rouge2"] == 0.5  # `ok` has no pair of words
    bad = scores(["xyz"], ["the cat"])
    assert (bad["eval_exact_match"], bad["eval_rougeL"]) == (0, 0)


def test_rouge_is_the_mean_f1() -> None:
    found = scores(["the cat", "a dog barks"], ["the cat sat", "a dog barks"])
    assert found["eval_rouge1"] == pytest.approx((2 * (1 * 2 / 3) / (1 + 2 / 3) + 1) / 2)
    assert found["eval_rouge2"] == pytest.approx((2 * (1 * 1 / 2) / (1 + 1 / 2) + 1) / 2)


def test_chinese_is_scored_by_character() -> None:
    text, reference = "今天天气很好。", "今天天气不好。"
    found = scores([text], [reference])
    assert found["eval_rouge1"] == pytest.approx(5 / 6)
    assert found["eval_rougeL"] == pytest.approx(5 / 6)
    assert found["eval_bleu"] == corpus_bleu([text], [[reference]], tokenize="zh").score > 0
    assert corpus_bleu([text], [[reference]]).score == 0, "by spaces there is no word in common"


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (["Guten Tag", "the cat"], "13a"),
        (["今天天气很好", "ok"], "zh"),
        (["東京は日本の首都です"], "char"),
        (["สวัสดีชาวโลก"], "char"),
        (["안녕하세요 세계"], "13a"),
        (["a long English answer that names 北京 once"], "13a"),
        (["123", ""], "13a"),
    ],
)
def test_bleu_splits_words_as_the_script_does(references: list[str], tokenizer: str) -> None:
    assert bleu_tokenizer(references) == tokenizer


def test_words_of_every_script() -> None:
    assert words("Größe 12,5 cm") == ["größe", "12", "5", "cm"]
    assert words("世界和平 GPT") == ["世", "界", "和", "平", "gpt"]
    assert words("カタ") == ["カ", "タ"]


def test_json_counts_only_where_every_reference_is_json() -> None:
    found = scores(['{"a": 1}', "{oops"], ['{"a": 1}', "[]"])
    assert found["eval_valid_json"] == 0.5
    assert "eval_valid_json" not in scores(['{"a": 1}', "x"], ['{"a": 1}', "text"])
    assert "eval_valid_json" not in scores(["7"], ["7"])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=4))
def test_any_texts_have_finite_scores(pairs: list[tuple[str, str]]) -> None:
    texts, references = zip(*pairs, strict=True)
    found = scores(texts, references)
    for key, value in found.items():
        assert 0 <= value <= (100.0001 if key == "eval_bleu" else 1), key
