"""What vLLM's own renderer makes of chats, without an engine.

Run as a child: python -m tests.e2e.rendered REQUEST ANSWER. The request holds a base, chat
templates by name, and chats as clients send them; the answer the ids of each template's chats, or
null where it refuses one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam
from vllm.exceptions import VLLMValidationError
from vllm.renderers.chat_utils import parse_chat_messages
from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    config = ModelConfig(model=request["base"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(request["base"])

    def ids(template: str, chat: dict[str, Any]) -> list[int] | None:
        tools = [ChatCompletionToolsParam(**tool).model_dump() for tool in chat["tools"]] or None
        content_format = resolve_chat_template_content_format(
            template, tools, "auto", tokenizer, model_config=config
        )
        try:
            messages, *_ = parse_chat_messages(chat["messages"], config, content_format)
            return safe_apply_chat_template(
                config,
                tokenizer,
                messages,
                tools=tools,
                chat_template=template,
                add_generation_prompt=True,
                continue_final_message=False,
                return_dict=False,
                **chat["chat_template_kwargs"],
            )
        except VLLMValidationError:
            return None

    answer = {
        name: [ids(template, chat) for chat in request["chats"]]
        for name, template in request["templates"].items()
    }
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
