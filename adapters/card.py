"""The model card of a version: README.md with the Hub's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.files import CURVE_FILE, RECEIPT_FILE
from adapters.types import BaseModel, Manifest

_CARD = """---
{base_model}library_name: peft
pipeline_tag: {task}
tags: [lora, switchyard]
---

# {name}

A LoRA adapter of `{base}` (revision `{revision}`), made with Switchyard.

{results}
## Use it

{use}{asked}
## Where it comes from

{recipe}
"""
_PROMPT_CARD = """---
{base_model}pipeline_tag: text-generation
tags: [prompt, switchyard]
---

# {name}

A prompt over {on}`{base}` (revision `{revision}`), made with Switchyard. It has no weights of its
own. `adapters serve` adds this to requests that do not say otherwise:

```json
{serving}
```
"""
_SPEAKS = """With Switchyard, and `model="{name}"` in any OpenAI client:

    adapters serve --base {base}{registry}

With plain vLLM:

{download}    vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={folder}

With PEFT:

    model = AutoModelForCausalLM.from_pretrained("{base}")
    model = PeftModel.from_pretrained(model, {source})
"""
_JUDGES = """It gives a chat a number, its reward; `adapters lint` says how plain vLLM serves it.

With PEFT:

    model = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels=1)
    model = PeftModel.from_pretrained(model, {source})
"""
_CURVE = f"![Loss by step]({CURVE_FILE})\n\n"
_RECEIPT = f"Where each row went, with its line: [{RECEIPT_FILE}]({RECEIPT_FILE}).\n"
_PARITY = """
Training and serving see the same tokens: {rows} rows were rendered as vLLM renders a request, each
to the ids it was trained on. Answers end with `{stop_token}`.
"""
_ASKED = """
It was trained on answers without thoughts. Ask for the same, in each request or for all of them:

    "chat_template_kwargs": {options}
    vllm serve … --default-chat-template-kwargs '{options}'
"""


def card(
    name: str,
    base: BaseModel,
    recipe: Mapping[str, Any],
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float],
    rank: int,
    *,
    serving: Mapping[str, Any] | None = None,
    curve: bool = False,
) -> str:
    """Return the text of README.md; no times, so that one seed gives one digest.

    `rank`: what vLLM is told as --max-lora-rank. `curve`: whether the version holds one.
    """
    use = {"registry": "", "download": "", "folder": "FOLDER", "source": '"FOLDER"'}
    return _filled(name, base, recipe, dataset, metrics, rank, serving or {}, curve, use)


def hub_card(manifest: Manifest, org: str, rank: int) -> str:
    """Return the README.md of a version in `org` on the Hub that was published without one."""
    if manifest.kind == "prompt":
        return prompt_card(manifest.name, manifest.base, manifest.serving)
    name, revision = manifest.name, f"v{manifest.version}"
    folder = f"{name}-{revision}"
    use = {
        "registry": f" --registry hf://{org}",
        "download": f"    hf download {org}/{name} --revision {revision} --local-dir {folder}\n",
        "folder": folder,
        "source": f'"{org}/{name}", revision="{revision}"',
    }
    m = manifest
    curve = CURVE_FILE in m.files
    return _filled(name, m.base, m.recipe, m.dataset, m.metrics, rank, m.serving, curve, use)


def prompt_card(name: str, base: BaseModel, serving: Mapping[str, Any]) -> str:
    """Return the README.md of a prompt-only version; as `card`, no times and no number."""
    return _PROMPT_CARD.format(
        name=name,
        base=base.name,
        base_model="" if base.local else f"base_model: {json.dumps(base.id)}\n",
        revision=base.revision,
        on=f"`{serving['on']}`, a LoRA adapter of " if "on" in serving else "",
        serving=json.dumps(serving, indent=2, ensure_ascii=False),
    )


def _filled(
    name: str,
    base: BaseModel,
    recipe: Mapping[str, Any],
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float],
    rank: int,
    serving: Mapping[str, Any],
    curve: bool,
    use: Mapping[str, str],
) -> str:
    numbers = [(key, f"{value:.4g}") for key, value in metrics.items() if key[-2:] != "_s"]
    counts = [(k, n) for k, n in dataset.items() if k == "rows" or k.endswith(("_rows", "_flags"))]
    results = [
        _table("metric", numbers),
        _CURVE if curve else "",
        _table("rows of the dataset", [(key, str(count)) for key, count in counts if count]),
        _RECEIPT if "receipt_sha256" in dataset else "",
        _PARITY.format(**dataset["parity"]) if dataset.get("parity") else "",
    ]
    options = serving.get("chat_template_kwargs")
    judges = recipe.get("method") == "reward"
    told = (_JUDGES if judges else _SPEAKS).format(name=name, base=base.name, rank=rank, **use)
    return _CARD.format(
        name=name,
        base=base.name,
        # A local base is on no Hub: its name may be somebody else's model there, or no id at all.
        base_model="" if base.local else f"base_model: {json.dumps(base.id)}\n",
        revision=base.revision,
        task="text-classification" if judges else "text-generation",
        use=told,
        results="".join(results),
        asked=_ASKED.format(options=json.dumps(options)) if options else "",
        recipe=f"Recipe:\n\n```json\n{json.dumps(recipe, indent=2, ensure_ascii=False)}\n```"
        if recipe
        else "It was not trained here: no recipe is known.",
    )


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"| {key} | {value} |\n" for key, value in rows)
    return f"| {title} | |\n| --- | ---: |\n{lines}\n"
