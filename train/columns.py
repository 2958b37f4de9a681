"""The columns of a prepared dataset, by what its rows are encoded for (`train.tokens.encode`)."""

from __future__ import annotations

from datasets import Features, Json, List, Value

_IDS, _TURNS = List(Value("int32")), List(Json())  # Json: turns keep the keys that each has
_CHAT = {"prompt": _TURNS, "length": Value("int32")}
_ANSWERED = {
    **_CHAT,
    "tools": Value("string"),
    "chat_template_kwargs": Json(),
    "lengths": _IDS,
}

FEATURES = {
    "sft": Features({"input_ids": _IDS, "labels": _IDS}),
    "preference": Features({**_ANSWERED, "chosen": _TURNS, "rejected": _TURNS}),
    "kto": Features({**_ANSWERED, "completion": _TURNS, "label": Value("bool")}),
    "prompt": Features({**_CHAT, "answer": Value("string"), "columns": Json()}),
}
"""`length`: tokens of the longest sequence, before it is cut; `lengths`: of each. `tools`: JSON.
`columns`: the record as it stood in its file, for reward functions."""
