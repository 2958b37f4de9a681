"""A server that asks for keys, and has few places for adapters: one slot, memory for two."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from adapters.keys import KeyJournal

ADMIN = "an-admins-secret"
HF_TOKEN = "hf_thisServersOwnTokenNobodyMayEverSee"
FEW_PLACES = ("--max-loras=1", "--max-cpu-loras=2")


@dataclass(frozen=True, slots=True)
class Shut:
    """A server that asks for keys, and where they are made."""

    url: str
    journal: KeyJournal

    def client(self, secret: str) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=secret, max_retries=0)

    def open_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=ADMIN, max_retries=0)

    def cached_tokens(self) -> float:
        """Return how many tokens of prompts vLLM has found in its prefix cache so far."""
        headers = {"authorization": f"Bearer {ADMIN}"}
        text = httpx.get(f"{self.url}/metrics", headers=headers).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "vllm:prefix_cache_hits_total"
        )
