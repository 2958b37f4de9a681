"""The tiny base's tokenizer: byte-level BPE learned from its own corpus, ChatML turns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from train.tiny.corpus import Chat

VOCAB_SIZE = 2048
MAX_LENGTH = 512
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def learn(documents: Iterable[str | Chat]) -> PreTrainedTokenizerFast:
    """Learn the merges; any UTF-8 text can be encoded, known or not."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator((text for doc in documents for text in _texts(doc)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=_TEMPLATE.read_text(),
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, document: str | Chat) -> list[int]:
    """Return a document's tokens; a plain text ends with the end-of-text token."""
    if isinstance(document, str):
        return [*tokenizer.encode(document), tokenizer.pad_token_id]
    return list(tokenizer.apply_chat_template(document, tokenize=True, return_dict=False))


def _texts(document: str | Chat) -> Iterable[str]:
    if isinstance(document, str):
        return (document,)
    return (f"{turn['role']}\n{turn['content']}" for turn in document)
