"""`instructor`: its JSON schema mode, over the base and adapters; whole and in part."""

from __future__ import annotations

from typing import Literal

import instructor
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.conftest import MESSAGES

ASKED = {"messages": MESSAGES, "max_tokens": 60, "max_retries": 0}


class Verdict(BaseModel):
    mood: Literal["glad", "sad"]
    urgent: bool


@pytest.mark.parametrize("model", ["support", "fleet-1@v1", "tiny"])
def test_of_openai(url: str, key: str, model: str) -> None:
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        made = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
        verdict, reply = made.chat.completions.create_with_completion(
            model=model, response_model=Verdict, temperature=0, **ASKED
        )
        assert isinstance(verdict, Verdict)
        assert reply.model.startswith(model)
        *_, last = made.chat.completions.create_partial(
            model=model, response_model=Verdict, temperature=0, **ASKED
        )
        assert last.model_dump() == verdict.model_dump()
