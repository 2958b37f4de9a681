"""How well generated texts match their references: exact match, BLEU, ROUGE, valid JSON.

Knows texts only. `train.evaluation` makes them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from adapters.intervals import wilson

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d"
"""Thai, Lao, Burmese, Khmer, kana: scripts but Chinese that put no space between words."""
_WORDS = re.compile(rf"[{_HAN}{_UNSPACED}]|[^\W{_HAN}{_UNSPACED}]+")


def scores(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the scores of generated texts; as many references, at least one.

    `eval_exact_match`: share that equal their reference but for white space round them, between
    `eval_exact_match_low` and `_high` with 95 % confidence (Wilson). `eval_bleu`: sacrebleu's, 0
    to 100, words split as `bleu_tokenizer` says; 0 where no answer has four words. `eval_rouge1`,
    `eval_rouge2`, `eval_rougeL`: mean F1, 0 to 1, of words in any script. `eval_valid_json`: share
    that are JSON, where every reference is an object or a list.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu

    assert len(texts) == len(references) > 0
    right = sum(
        text.strip() == reference.strip() for text, reference in zip(texts, references, strict=True)
    )
    low, high = wilson(right, len(texts))
    bleu = corpus_bleu(texts, [references], tokenize=bleu_tokenizer(references))
    found = {
        "eval_exact_match": right / len(texts),
        "eval_exact_match_low": low,
        "eval_exact_match_high": high,
        "eval_bleu": float(bleu.score),
    }
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(kinds, tokenizer=_Words())
    each = [scorer.score(ref, text) for ref, text in zip(references, texts, strict=True)]
    for kind in kinds:
        found[f"eval_{kind}"] = sum(score[kind].fmeasure for score in each) / len(each)
    if all(map(is_json, references)):
        found["eval_valid_json"] = sum(map(is_json, texts)) / len(texts)
    return found


def bleu_tokenizer(references: Sequence[str]) -> str:
    """Return sacrebleu's tokenizer for the script that most letters are of.

    `zh` for Chinese; `char` for Japanese, Thai and others without spaces between words; else
    `13a`, which is sacrebleu's own choice.
    """
    letters: Counter[str] = Counter()
    for text in references:
        unspaced = len(re.findall(rf"[{_UNSPACED}]", text))
        han = len(re.findall(rf"[{_HAN}]", text))
        # Japanese writes Han characters too, but no sentence without kana.
        letters["char" if unspaced else "zh"] += unspaced + han
        letters["13a"] += sum(map(str.isalpha, text)) - unspaced - han
    return max(("13a", "zh", "char"), key=lambda name: letters[name])


def words(text: str) -> list[str]:
    """Return a text's words in lower case; each character of an unspaced script is one.

    >>> words("Hello, 世界 2nd")
    ['hello', '世', '界', '2nd']
    """
    return _WORDS.findall(text.lower())


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or list."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


class _Words:
    """`words` as rouge-score calls it; its own tokenizer drops all but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)
