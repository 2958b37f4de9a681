"""The proof that a trainer, having tokenised the rows once more, has every one, whole."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc
from datasets import Dataset

from adapters.errors import Rejected

_LEARNT = {"prompt_ids", "chosen_ids", "rejected_ids", "completion_ids", "KL_completion_ids"}
_LEARNT |= {"ref_chosen_logps", "ref_rejected_logps", "ref_logps", "ref_KL_logps"}
_LEARNT |= {"label", "length", "row"}


def proven(made: Dataset, given: Dataset, answers: Sequence[str]) -> Dataset:
    """Return a trainer's dataset without its chats, which are token ids by now.

    `made`: what TRL made of `given`: for each row `prompt_ids` and the columns of `answers`, all
    token ids. Each answer behind its prompt must be as long as `given`'s `lengths` counted it.

    Raises:
        Rejected: rows are missing, or of another length; the message says how many.
    """
    if len(made) != len(given):
        raise Rejected(
            f"TRL would leave out {len(given) - len(made)} of {len(given)} rows that were counted.",
            fix="Report this: the data receipt would not be true.",
        )
    ids = made.select_columns(["prompt_ids", *answers]).with_format("arrow")[:]
    counted = given["lengths"]
    prompts = pc.list_value_length(ids["prompt_ids"])
    for place, answer in enumerate(answers):
        found = pc.add(prompts, pc.list_value_length(ids[answer])).to_pylist()
        wrong = [
            (row, n, lengths[place])
            for row, (n, lengths) in enumerate(zip(found, counted, strict=True))
            if n != lengths[place]
        ]
        if wrong:
            row, n, expected = wrong[0]
            raise Rejected(
                f"TRL tokenises {len(wrong)} of {len(given)} rows otherwise than they were counted "
                f"(row {row + 1}: {n} tokens, not {expected}).",
                fix="The base's chat template depends on more than the chat; report this with it.",
            )
    return made.select_columns([name for name in made.column_names if name in _LEARNT])


def sources(made: Dataset, count: int) -> Sequence[int]:
    """Return which of the `count` rows that a method was given each of its own comes from."""
    if isinstance(made, Dataset) and "row" in made.column_names:
        return list(made["row"])
    return range(count)
