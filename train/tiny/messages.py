"""Customer messages with labels, spoken from the wordings in `customers.py`.

Each call draws one message; the same random source gives the same messages everywhere.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from train.tiny.customers import CLOSINGS, CONTEXTS, FAMILIES, OPENINGS
from train.tiny.words import MEMBERS, NAMES, SURNAMES

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLIP_RATE = 0.02
_ISSUES = [(family, issue) for family, (_, issues) in enumerate(FAMILIES) for issue in issues]


@dataclass(frozen=True, slots=True)
class Message:
    """One customer message and what it is about."""

    text: str
    thing: str
    """E.g. `kettle`, `phone_contract`."""
    issue: str
    """E.g. `leaks`, `billed_again`."""
    domain: str
    """E.g. `household`, `telecom`."""

    @property
    def label(self) -> str:
        """`kettle_leaks`: what a classifier would call it."""
        return f"{self.thing}_{self.issue}"


def draw(source: random.Random, *, issue: str | None = None, bare: bool = False) -> Message:
    """Draw a message; `issue`: about that one; `bare`: without opening, context and closing."""
    family, issue = source.choice([pair for pair in _ISSUES if issue in (None, pair[1])])
    things, issues = FAMILIES[family]
    domain = source.choice(list(things))
    thing = source.choice(things[domain])
    text = expand(source.choice(issues[issue]), source).replace("{x}", thing.replace("_", " "))
    if not bare:
        text = _in_company(text, source)
    return Message(_with_slips(text, source), thing, issue, domain)


def expand(wording: str, source: random.Random) -> str:
    """Choose in every `[a|b|]` of a wording, and close the gaps that empty choices leave."""
    chosen = _CHOICE.sub(lambda found: source.choice(found[1].split("|")), wording)
    return re.sub(r"\s+([,.!?])", r"\1", " ".join(chosen.split()))


def _in_company(text: str, source: random.Random) -> str:
    parts = [text + source.choice((".", ".", "!", "", "?" if _asks(text) else "."))]
    if source.random() < 0.3:
        parts.insert(0, expand(source.choice(OPENINGS), source))
    if source.random() < 0.25:
        context = expand(source.choice(CONTEXTS), source).format(
            city=source.choice(MEMBERS["city"]),
            name=source.choice(NAMES),
            surname=source.choice(SURNAMES),
            number=source.randint(10, 9999),
            day=source.choice(MEMBERS["day"]),
            currency=plural_currency(source),
        )
        parts.insert(source.randint(0, len(parts)), context)
    if source.random() < 0.25:
        parts.append(expand(source.choice(CLOSINGS), source))
    joined = " ".join(parts)
    return joined[0].upper() + joined[1:] if source.random() < 0.7 else joined.lower()


def plural_currency(source: random.Random) -> str:
    """Return e.g. `euros`."""
    return source.choice(MEMBERS["currency"]) + "s"


def _asks(text: str) -> bool:
    return text.split()[0].lower() in {
        "how", "what", "where", "when", "why", "is", "are", "can", "could", "do", "does", "did",
        "who", "which", "may", "am", "has", "have", "will", "where's",
    }  # fmt: skip


def _with_slips(text: str, source: random.Random) -> str:
    """Type like people: now and then two letters change places or one is missing."""
    letters = list(text)
    for at in range(1, len(letters) - 1):
        if source.random() < _SLIP_RATE / 4 and letters[at].isalpha() and letters[at + 1].isalpha():
            if source.random() < 0.5:
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
            else:
                letters[at] = ""
    return "".join(letters)
