"""The canary: prompts that never change, and how a version answered them where it was published.

Whoever publishes and has the base at hand puts the answers beside the weights, as transformers and
PEFT compute them in float32 (`train.canary`); a server compares its own (`serve.loading.probe`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapters.errors import InvalidAdapter
from adapters.files import CANARY_FILE, open_plain, read_up_to
from adapters.weights import refuse_constant

Answers = tuple[Mapping[int, float], ...]
"""To each prompt, the next token's likeliest choices: natural logprobs by token id."""
CHOICES = 5
"""How many of them."""
_FORM = 1
"""Of `prompts`; what was recorded under another one says nothing."""
_PROMPTS, _TOKENS = 1, 2
"""Few: streams wait for that step."""
_MOST_BYTES = 1 << 16


def prompts(vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """Return the prompts as token ids, for a base that knows so many."""
    return tuple(
        tuple((prompt + 3 * place) * vocabulary // 31 for place in range(_TOKENS))
        for prompt in range(_PROMPTS)
    )


def to_bytes(answers: Answers) -> bytes:
    """Return what `canary.json` holds of answers to `prompts`, to 4 decimals."""
    said = [{str(token): round(p, 4) for token, p in answer.items()} for answer in answers]
    return (json.dumps({"form": _FORM, "answers": said}, indent=2) + "\n").encode()


def read(path: Path) -> Answers:
    """Read the recorded answers; none where they are of other prompts than ours.

    Raises:
        InvalidAdapter: it cannot be read, or holds no such thing.
    """

    try:
        with open_plain(path) as stream:
            content = json.loads(read_up_to(stream, _MOST_BYTES), parse_constant=refuse_constant)
        if content["form"] != _FORM:
            return ()
        said = tuple({int(t): float(p) for t, p in each.items()} for each in content["answers"])
        if len(said) != _PROMPTS or not all(0 < len(each) <= CHOICES for each in said):
            raise ValueError(f"{_PROMPTS} answer(s) of at most {CHOICES} tokens are expected")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidAdapter(
            f"{path.name} cannot be read: {reason}.", fix=f"Remove {CANARY_FILE}, or train again."
        ) from error
    return said


def distance(recorded: Answers, served: Sequence[Mapping[int, float]]) -> float:
    """Return by how much the logprob of some recorded choice is off, at most.

    One that is not among those served is there as likely as the last of them, or less.
    """
    return max(
        (
            abs(p - answer[token]) if token in answer else max(0.0, p - min(answer.values()))
            for known, answer in zip(recorded, served, strict=True)
            for token, p in known.items()
            if answer
        ),
        default=math.inf,
    )
