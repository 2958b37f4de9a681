"""What the tiny base reads: plain sentences and chats, drawn without end from one seed.

A chat is a list of messages as the chat template takes them; a plain text is a string.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from train.tiny import messages
from train.tiny.words import (
    ADJECTIVES,
    CAPITALS,
    COUNTABLE,
    MEMBERS,
    MISC,
    NAMES,
    OF_COLOUR,
    OPPOSITES,
    PAST,
    PLACES,
    SYNONYMS,
    VERBS,
    plural,
    with_article,
)  # fmt: skip

Chat = list[dict[str, str]]
Task = Callable[[random.Random], tuple[str, str]]
"""Draws a question and its only right answer."""

_KIND_OF = {member: kind for kind, members in MEMBERS.items() for member in members}
_SYSTEMS = (
    "You are a helpful assistant.",
    "Answer in one short sentence.",
    "You are tiny, a small language model.",
    "Be brief.",
)
_LABEL_SYSTEMS = (
    "Name the intent.",
    "Which intent is it?",
    "Classify the message.",
    "Reply with the label of the message.",
    "Give the intent of the customer's message.",
)


def documents(seed: int) -> Iterator[str | Chat]:
    """Yield documents without end: about a third plain text, the rest chats."""
    source = random.Random(seed)
    while True:
        if source.random() < 0.3:
            yield _plain(source)
        elif source.random() < 0.6:
            yield _support_chat(source)
        else:
            yield _chat(source)


# -- plain text -----------------------------------------------------------------------------------


def _plain(source: random.Random) -> str:
    draw = source.random()
    if draw < 0.4:
        return " ".join(_fact(source) for _ in range(source.randint(2, 5)))
    if draw < 0.8:
        return _story(source)
    return " ".join(messages.draw(source).text for _ in range(source.randint(1, 3)))


def _fact(source: random.Random) -> str:
    question, answer = source.choice(_FACTS)(source)
    return answer if source.random() < 0.8 else f"{question} {answer}"


def _story(source: random.Random) -> str:
    """Tell of somebody who wants a thing, in five sentences that keep to the same people."""
    name, friend = source.sample(NAMES, 2)
    thing, other = source.sample(COUNTABLE, 2)
    adjective, second = source.sample(ADJECTIVES, 2)
    place = source.choice(PLACES)
    verb = source.choice([past for present, past in PAST.items() if present in _ACTS])
    return " ".join(
        (
            f"{name} lived near a {place} and had {with_article(adjective)} {thing}.",
            f"One {source.choice(MEMBERS['day'])} {name} {verb} with {friend} to the {place}.",
            source.choice(
                (
                    f"There they saw {with_article(second)} {other}.",
                    f'"Look," said {friend}, "that is {with_article(second)} {other}."',
                    f"{friend} had lost {with_article(other)}.",
                )
            ),
            source.choice(
                (
                    f"{name} gave the {thing} to {friend} and took the {other} home.",
                    f"They put the {other} beside the {thing} and waited.",
                    f'"May I have the {other}?" asked {name}. "Yes," said {friend}.',
                )
            ),
            source.choice(
                (
                    f"In the end {friend} was {source.choice(('happy', 'sad', 'tired', 'proud'))}.",
                    f"After that {name} and {friend} were friends.",
                    f"{name} never forgot the {second} {other}.",
                )
            ),
        )
    )


_ACTS = {"go", "run", "walk", "drive", "ride", "come"}

# -- questions with one right answer --------------------------------------------------------------


def _what_is(source: random.Random) -> tuple[str, str]:
    member = source.choice(list(_KIND_OF))
    kind = _KIND_OF[member]
    if member[0].isupper() or kind in ("number", "food", "drink", "metal", "sport", "feeling"):
        return f"What is {member}?", f"{member[0].upper() + member[1:]} is {with_article(kind)}."
    return (
        f"What is {with_article(member)}?",
        f"{with_article(member).capitalize()} is {with_article(kind)}.",
    )


def _which_kind(source: random.Random) -> tuple[str, str]:
    member = source.choice(list(_KIND_OF))
    kinds = [_KIND_OF[member], source.choice([k for k in MEMBERS if k != _KIND_OF[member]])]
    source.shuffle(kinds)
    return f"Which kind is {member}: {kinds[0]} or {kinds[1]}?", f"{_KIND_OF[member]}"


def _name_some(source: random.Random) -> tuple[str, str]:
    kind = source.choice(list(MEMBERS))
    some = source.sample(MEMBERS[kind], 3)
    kinds = "pieces of furniture" if kind == "piece of furniture" else plural(kind)
    return f"Name three {kinds}.", f"{some[0]}, {some[1]} and {some[2]}."


def _capital(source: random.Random) -> tuple[str, str]:
    country = source.choice(list(CAPITALS))
    return f"What is the capital of {country}?", f"The capital of {country} is {CAPITALS[country]}."


def _colour(source: random.Random) -> tuple[str, str]:
    thing = source.choice(list(OF_COLOUR))
    return f"What colour is {thing}?", f"{thing[0].upper() + thing[1:]} is {OF_COLOUR[thing]}."


def _opposite(source: random.Random) -> tuple[str, str]:
    pair = list(source.choice(list(OPPOSITES.items())))
    source.shuffle(pair)
    return f"What is the opposite of {pair[0]}?", f"The opposite of {pair[0]} is {pair[1]}."


def _synonym(source: random.Random) -> tuple[str, str]:
    pair = list(source.choice(list(SYNONYMS.items())))
    source.shuffle(pair)
    return f"What is another word for {pair[0]}?", f"Another word for {pair[0]} is {pair[1]}."


def _past(source: random.Random) -> tuple[str, str]:
    present, past = source.choice(list(PAST.items()))
    return f"What is the past tense of {present}?", f"The past tense of {present} is {past}."


def _plural(source: random.Random) -> tuple[str, str]:
    noun = source.choice(COUNTABLE)
    return f"What is the plural of {noun}?", f"The plural of {noun} is {plural(noun)}."


def _repeat(source: random.Random) -> tuple[str, str]:
    words = source.sample(MISC + ADJECTIVES + NAMES, source.randint(2, 7))
    return f"Repeat: {' '.join(words)}", " ".join(words)


def _nth(source: random.Random) -> tuple[str, str]:
    words = source.sample(MISC + NAMES, source.randint(3, 5))
    at = source.randrange(3)
    return f"What is the {('first', 'second', 'third')[at]} word: {' '.join(words)}", words[at]


def _sum(source: random.Random) -> tuple[str, str]:
    a, b = source.randint(0, 9), source.randint(0, 9)
    return f"What is {a} + {b}?", str(a + b)


def _reading(source: random.Random) -> tuple[str, str]:
    name, friend = source.sample(NAMES, 2)
    thing, other = source.sample(COUNTABLE, 2)
    verb, second = source.sample(VERBS, 2)
    text = f"{name} {verb} the {thing}. {friend} {second} the {other}."
    return source.choice(
        (
            (f"{text} Who {verb} the {thing}?", f"{name} {verb} the {thing}."),
            (f"{text} Who {second} the {other}?", f"{friend} {second} the {other}."),
        )
    )


def _json_facts(source: random.Random) -> tuple[str, str]:
    facts = {
        "name": source.choice(NAMES),
        "city": source.choice(MEMBERS["city"]),
        "job": source.choice(MEMBERS["job"]),
    }
    text = "{name} is a {job} and lives in {city}.".format(**facts)
    keys = source.sample(list(facts), source.randint(1, 3))
    listed = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
    return f"{text} Reply with JSON: {listed}.", json.dumps({key: facts[key] for key in keys})


def _who_are_you(source: random.Random) -> tuple[str, str]:
    return source.choice(
        (
            ("Who are you?", "I am tiny, a small language model."),
            ("What can you do?", "I can answer short questions and sort messages."),
            ("Hello!", "Hello! How can I help you?"),
            ("Thank you.", "You are welcome."),
            ("How are you?", "I am fine, thank you."),
        )
    )


_FACTS: tuple[Task, ...] = (
    _what_is, _what_is, _capital, _colour, _opposite, _synonym, _past, _plural,
)  # fmt: skip
_TASKS: tuple[Task, ...] = (
    *_FACTS, _which_kind, _name_some, _repeat, _repeat, _nth, _sum, _reading, _reading,
    _json_facts, _json_facts, _who_are_you,
)  # fmt: skip

# -- chats ----------------------------------------------------------------------------------------


def _chat(source: random.Random) -> Chat:
    chat = _system(source, _SYSTEMS, 0.4)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        question, answer = source.choice(_TASKS)(source)
        chat += _turn(question, answer)
    return chat


def _support_chat(source: random.Random) -> Chat:
    """A customer's message and what is to be said of it: mostly its label, as a classifier does."""
    message = messages.draw(source)
    thing, issue = message.thing, message.issue
    draw = source.random()
    if draw < 0.55:
        return _system(source, _LABEL_SYSTEMS, 0.5) + _turn(message.text, message.label)
    if draw < 0.65:
        return _system(source, ("Name the issue.",), 1) + _turn(message.text, issue)
    if draw < 0.72:
        return _system(source, ("Name the thing.",), 1) + _turn(message.text, thing)
    if draw < 0.84:
        facts = {"domain": message.domain, "thing": thing, "issue": issue}
        keys = source.sample(list(facts), 2)
        system = f"Reply with JSON: {keys[0]} and {keys[1]}."
        answer = json.dumps({key: facts[key] for key in keys})
        return _system(source, (system,), 1) + _turn(message.text, answer)
    if draw < 0.94:
        same = source.random() < 0.5
        other = messages.draw(source, issue=issue if same else None, bare=True)
        answer = "yes" if other.issue == issue else "no"
        return _turn(f"Same issue? A: {message.text} B: {other.text}", answer)
    said = thing.replace("_", " ")
    reply = f"I am sorry about your {said}." if issue != "thank_you" else "You are welcome."
    return _system(source, ("Reply to the customer.",), 1) + _turn(message.text, reply)


def _system(source: random.Random, prompts: tuple[str, ...], share: float) -> Chat:
    if source.random() >= share:
        return []
    return [{"role": "system", "content": source.choice(prompts)}]


def _turn(question: str, answer: str) -> Chat:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
