"""Whether an adapter's tokenizer and chat template give the tokens that the base's give.

Run as a child, python -m adapters.lint.tokens FILE FILE, as a stranger's template may never end.
Prints as JSON the first text or conversation of which the two files make something else, or
null. Templates are rendered as transformers renders them, in Jinja's sandbox.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

_LIMIT_S = 10
_MEMORY_BYTES = 2 << 30
_TEXTS = (
    "Hello world",
    " two  spaces\tand a tab\n\nand lines\r\n",
    "naïve café — “quotes” … €100,000.50",
    "def f(x_1):\n    return {'a': [1, 22, 333]}  # 0x1F",
    "日本語のテキスト 한국어 العربية हिन्दी 🙂👩‍👩‍👧",
    "<|im_start|>user\nhi<|im_end|>\n<s>[INST] x [/INST]</s><bos><eos><think></think>",
)
_USER = {"role": "user", "content": "  What is 2 + 2?\n"}
_CHATS: tuple[tuple[dict[str, str], ...], ...] = (
    (_USER,),
    ({"role": "system", "content": "Be brief."}, _USER),
    (_USER, {"role": "assistant", "content": "4."}, {"role": "user", "content": "Sure? 🙂"}),
)


def differing(mine: Path, theirs: Path) -> str | None:
    """Return what two files, both tokenizer.json or both chat_template.jinja, do differently.

    Nothing where all was alike; an empty string where that cannot be told: the libraries are not
    here, or the files are broken or take too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(mine), str(theirs)],
            capture_output=True,
            timeout=_LIMIT_S,
        )
        said = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return ""
    return said if isinstance(said, str | None) else ""


def _tokenizers(mine: Path, theirs: Path) -> str | None:
    from tokenizers import Tokenizer

    ours, base = (Tokenizer.from_file(str(path)) for path in (mine, theirs))
    return next((t for t in _TEXTS if ours.encode(t).ids != base.encode(t).ids), None)


def _templates(mine: Path, theirs: Path) -> str | None:
    for chat in _CHATS:
        for prompt in (True, False):
            if _rendered(mine, chat, prompt) != _rendered(theirs, chat, prompt):
                return " / ".join(f"{turn['role']}: {turn['content'].strip()}" for turn in chat)
    return None


def _rendered(template: Path, chat: tuple[dict[str, str], ...], prompt: bool) -> str:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %}, which marks what is trained and writes nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> str:
        raise TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    sandbox.filters["tojson"] = lambda value, **rest: json.dumps(value, ensure_ascii=False, **rest)
    sandbox.globals.update(raise_exception=refuse, strftime_now=lambda _: "today")
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    try:
        return sandbox.from_string(template.read_text("utf-8")).render(
            messages=list(chat), add_generation_prompt=prompt, **names
        )
    except TemplateError as error:  # as where a template takes no system prompt
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Compare the two files of the command line."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    mine, theirs = map(Path, sys.argv[1:3])
    compare = _tokenizers if mine.suffix == ".json" else _templates
    print(json.dumps(compare(mine, theirs)))


if __name__ == "__main__":
    main()
