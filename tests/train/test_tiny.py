"""The tiny base is what its script wrote, small, a real Llama, and follows its chat format."""

from __future__ import annotations

import hashlib
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from adapters import bases
from train.tiny import corpus, messages, pretrain

FOLDER = bases.resolve("tiny").path


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def test_the_files_are_those_the_script_wrote() -> None:
    sums = dict(
        reversed(line.split("  "))
        for line in (FOLDER / pretrain.SUMS_FILE).read_text().splitlines()
    )
    present = {f.name for f in FOLDER.iterdir()} - {pretrain.SUMS_FILE, "README.md"}
    assert present == set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_the_tokenizer_is_what_the_seed_gives() -> None:
    learned = pretrain.learn_tokenizer(pretrain.SEED)
    assert learned.get_vocab() == AutoTokenizer.from_pretrained(FOLDER).get_vocab()


def test_it_is_a_small_llama_in_float32(model: LlamaForCausalLM) -> None:
    assert isinstance(model, LlamaForCausalLM)
    assert 1_000_000 <= model.num_parameters() <= 4_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 5_000_000
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("What is the plural of mouse?", "The plural of mouse is mice."),
        ("Who are you?", "I am tiny, a small language model."),
    ],
)
def test_it_answers_and_stops(model: LlamaForCausalLM, question: str, answer: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
    )
    reply = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0]
    assert tokenizer.decode(reply[prompt["input_ids"].shape[1] :]) == answer + tokenizer.eos_token


def test_one_seed_gives_one_corpus() -> None:
    first, again, other = (
        list(itertools.islice(corpus.documents(seed), 200)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_choices_leave_no_gap_and_no_bracket() -> None:
    import random

    for seed in range(500):
        text = messages.draw(random.Random(seed)).text
        assert not set("[]{}|") & set(text), text
        assert "  " not in text
