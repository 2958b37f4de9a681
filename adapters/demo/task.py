"""The demonstration's task: a customer's message → the queue and the priority, as JSON.

A seeded generator with a held-out test set. What decides the queue is the subject, what decides
the priority is how the customer puts it; both are phrased in many ways, and the test set holds
no message of the training set.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from adapters.demo.score import Question

SYSTEM_PROMPT = "Route the message. Reply with JSON: queue and priority."

_SUBJECTS = {
    "billing": (
        "I was charged twice for {order}",
        "my card was billed after I cancelled {order}",
        "the invoice for {order} shows the wrong amount",
        "there is a fee on my statement that I do not recognise",
        "I need a corrected invoice with our tax number",
        "the payment for {order} failed but the money is gone",
        "you took the money for the {thing} two times",
        "please explain the extra charge on last month's bill",
    ),
    "shipping": (
        "{order} has not arrived",
        "the tracking page for {order} has not moved since {day}",
        "the courier left the {thing} at the wrong address",
        "where is my {thing}",
        "can you deliver {order} on {day} instead",
        "my parcel is stuck at the depot",
        "the delivery of the {thing} was promised for {day}",
        "I have to change the address for {order}",
    ),
    "returns": (
        "I want to send the {thing} back",
        "the {thing} arrived broken",
        "the {thing} is the wrong size",
        "how do I get a return label for {order}",
        "I received a {thing} that I never ordered",
        "I would like to exchange the {thing} for another colour",
        "the {thing} stopped working after {number} days",
        "the {thing} does not look like the picture",
    ),
    "account": (
        "I cannot log in",
        "the password reset mail never comes",
        "please delete my account",
        "I need to change the mail address on my profile",
        "my account was locked after {number} attempts",
        "somebody else seems to use my login",
        "the code for the second factor is not accepted",
        "my old phone number is still in my profile",
    ),
    "technical": (
        "the app crashes when I open {order}",
        "the page stays white since {day}",
        "your site shows error {number}",
        "the export button does nothing",
        "the search returns nothing for {thing}",
        "uploading a photo of the {thing} hangs for ever",
        "the app is very slow since the update on {day}",
        "the checkout page does not load",
    ),
    "sales": (
        "do you give a discount for {number} pieces",
        "is the {thing} available in green",
        "when will the {thing} be back in stock",
        "we would like a quote for {number} of the {thing}",
        "which {thing} do you recommend for a beginner",
        "do you sell the {thing} to companies",
        "can I see a demo before we buy",
        "what is the difference between the two kinds of {thing}",
    ),
}
_MANNERS = {
    "low": (
        "no hurry",
        "whenever you have time",
        "just so you know",
        "it can wait until next week",
        "only a small thing",
        "there is no rush at all",
    ),
    "normal": (
        "thanks for your help",
        "please let me know",
        "could you look into it",
        "I hope you can help me",
        "kind regards",
        "thank you in advance",
    ),
    "high": (
        "this is urgent",
        "I need an answer today",
        "please act right now",
        "we lose money every hour",
        "I am really angry",
        "this cannot wait",
    ),
}
_THINGS = (
    "lamp", "kettle", "jacket", "keyboard", "tent", "bicycle", "camera", "sofa", "watch", "drill",
    "printer", "backpack", "mirror", "guitar", "blanket", "monitor",
)  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_OPENINGS = ("hello, ", "hi, ", "good morning, ", "dear team, ", "hey, ", "", "", "")


@dataclass(frozen=True, slots=True)
class Example:
    """One message and the JSON that is the only right answer to it."""

    message: str
    answer: str

    def question(self) -> Question:
        """Return what a client sends, and what it should get."""
        system = {"role": "system", "content": SYSTEM_PROMPT}
        return Question([system, {"role": "user", "content": self.message}], self.answer)

    def row(self) -> dict[str, object]:
        """Return the chat-messages form that `adapters train` reads."""
        answered = {"role": "assistant", "content": self.answer}
        return {"messages": [*self.question().messages, answered]}


def examples(count: int, *, seed: int) -> list[Example]:
    """Return `count` different examples; the same for the same seed on every machine."""
    source = random.Random(seed)
    found: dict[str, Example] = {}
    while len(found) < count:
        example = _example(source)
        found.setdefault(example.message, example)
    return list(found.values())


def split(train: int, test: int, *, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Return a training and a test set that share no message."""
    every = examples(train + test, seed=seed)
    return every[:train], every[train:]


def _example(source: random.Random) -> Example:
    queue, priority = source.choice(sorted(_SUBJECTS)), source.choice(sorted(_MANNERS))
    subject = source.choice(_SUBJECTS[queue]).format(
        order=f"order {source.randint(100, 999)}",
        thing=source.choice(_THINGS),
        day=source.choice(_DAYS),
        number=source.randint(2, 60),
    )
    manner = source.choice(_MANNERS[priority])
    first, second = (subject, manner) if source.random() < 0.7 else (manner, subject)
    message = f"{source.choice(_OPENINGS)}{first}. {second}"
    return Example(message, json.dumps({"queue": queue, "priority": priority}))
