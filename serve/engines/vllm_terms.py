"""Has vLLM keep the terms of each request (`asking`), where every endpoint comes by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.renderers.inputs.preprocess import extract_prompt_len

from serve.engines.asking import TERMS
from serve.http.failures import RequestRefused


def keep_terms(models: Any, client: Any) -> None:
    """Fit vLLM's models, renderer and engine client, once, before any request.

    Its own limit, `max_model_len`, is one for the whole process, and an answer's name is that of
    the LoRA. `model_name` is asked once a request, streamed or not, so nothing parses chunks. What
    it finds wrong with a request only once that is under way, when a stream has begun with 200
    and when some endpoints know no more than that something failed, is noted as the refusal that
    it is.
    """
    renderer = client.renderer
    name, render, generate = models.model_name, renderer.process_for_engine_async, client.generate

    def naming(lora_request: LoRARequest | None = None) -> str:
        terms = TERMS.get()
        return terms.answers_as if terms else str(name(lora_request))

    async def rendering(*args: Any, **options: Any) -> Any:
        rendered = await render(*args, **options)
        if terms := TERMS.get():
            try:
                terms.check(extract_prompt_len(client.model_config, rendered))
            except RequestRefused as error:
                raise VLLMValidationError(str(error)) from error
        return rendered

    async def generating(
        prompt: Any, params: Any, *args: Any, **options: Any
    ) -> AsyncIterator[Any]:
        terms = TERMS.get()
        if terms and terms.max_model_len:
            length = extract_prompt_len(client.model_config, prompt)
            params.max_tokens = terms.room(length, params.max_tokens)
        try:
            _check_prompt_logprobs(params)
            async with aclosing(generate(prompt, params, *args, **options)) as outputs:
                async for output in outputs:
                    if params.structured_outputs is not None:
                        _check_grammar(output)
                    yield output
        except Exception as error:
            if terms and terms.refusal is None:
                terms.refusal = _refusal(error)
            raise

    models.model_name = naming
    renderer.process_for_engine_async = rendering
    client.generate = generating


def _check_prompt_logprobs(params: Any) -> None:
    """Keep the engine alive. It is asked for them in more ways than `prompt_logprobs`: by `echo` in
    a chat, say, and by `false`, which vLLM reads as 0."""
    if params.prompt_logprobs is not None and current_platform.is_cpu():
        raise VLLMValidationError(
            "Logprobs of the prompt (`prompt_logprobs`, `echo` with `logprobs`, `echo` in a chat) "
            "are not served on a CPU: vLLM's LoRA kernels there do not survive them. Leave them "
            "out (in a chat with `echo`, say `top_logprobs: null`), or serve on a GPU.",
            parameter="prompt_logprobs",
        )


def _check_grammar(output: Any) -> None:
    """vLLM ends a request so where its grammar leads nowhere, which no check beforehand finds."""
    if any(each.finish_reason == "error" for each in output.outputs):
        raise VLLMValidationError("No answer can follow the grammar that was asked for.")


def _refusal(error: Exception) -> RequestRefused | None:
    """Return what is wrong with the request, if it is that."""
    said = create_error_response(error).error
    if not HTTPStatus.BAD_REQUEST <= said.code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    return RequestRefused(said.code, said.message, param=said.param)
