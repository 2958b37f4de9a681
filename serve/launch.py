"""`adapters serve`: everything that can be refused is refused before the base is loaded.

Then one process tree: vLLM's app and engine, the registry's follower beside it, the gate before.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from argparse import Namespace
from contextlib import closing
from functools import partial
from typing import Any, NoReturn

from opentelemetry.trace import get_tracer

from adapters import bases
from adapters.errors import MissingExtra, UsageError
from adapters.keys import KeyJournal
from adapters.leases import Holding
from adapters.lint import read_base_config
from adapters.registry import Registry
from serve.experiments.control import Control
from serve.experiments.feedback import Feedback
from serve.experiments.keeper import Keeper
from serve.experiments.recording import Recording
from serve.experiments.shadow import Shadows
from serve.experiments.store.base import Store
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.sql import SqlStore
from serve.experiments.token import Tokens
from serve.gate import Gate
from serve.http.asgi import ASGIApp
from serve.http.draining import Drain
from serve.loading.admission import Admission
from serve.loading.handover import Handover
from serve.loading.lease import EngineLease
from serve.loading.residency import Residency
from serve.loading.rotation import Rotation
from serve.loading.warmth import Note, Warming, held, wanted
from serve.machine import check_experts, check_exposure, check_port
from serve.routes.follower import Follower
from serve.routes.routing import Base
from serve.routes.snapshot import EMPTY, take
from serve.settings import Settings, flags_of, prepare_environment
from serve.tenants.keys import Keys
from serve.watching import logs
from serve.watching.experiment_metrics import ExperimentMetrics
from serve.watching.metrics import Metrics
from serve.watching.observing import Observer
from serve.watching.readiness import Readiness
from serve.watching.tracing import Tracing

_KEEP_S = 1.0
log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serve until a signal ends it. Returns the exit code: 0, or 130 after an interrupt.

    Raises:
        AdaptersError: before anything is loaded where possible; the message names the fix.
    """
    signal.signal(signal.SIGTERM, _stop_loading)
    logs.configure(settings.log_format)
    if any(flag.partition("=")[0] == "--model" for flag in settings.vllm_flags):
        raise UsageError("--model after `--` would name another base.", fix="Use --base.")
    check_port(settings.host, settings.port)
    if not (settings.api_keys or settings.insecure or KeyJournal().read()):
        check_exposure(settings.host)  # and again once vLLM's own flags are read
    registry = Registry.open(settings.registry)
    registry.names()  # a registry that cannot be read is refused here and now
    store, tokens = SqlStore(settings.store), Tokens()
    found = bases.resolve(settings.base, revision=settings.revision)
    prepare_environment()
    try:
        from serve.engines import vllm_engine
    except ImportError as error:
        raise MissingExtra(
            f"vLLM cannot be imported: {error}.",
            fix="pip install 'lora-switchyard[cpu]', or [gpu] on a machine with a GPU.",
        ) from error
    if vllm_engine.on_cpu():
        check_experts(read_base_config(found.path))
    logs.keep(settings.port)
    before = Note(registry.location, settings.port).read()
    flags, slots = flags_of(
        settings, found, take(registry), before.together, cpu=vllm_engine.on_cpu()
    )
    args = vllm_engine.parse(flags)
    log.info("Slots: %s (%s)", " ".join(slots.flags()), slots.reason)
    base = Base(tuple(args.served_model_name), found.model)
    keys = _keys(settings, args)
    log.info("Store of experiments: %s", store.name)
    try:
        with closing(store):
            return asyncio.run(
                _serve(
                    settings,
                    args,
                    registry,
                    base,
                    keys,
                    read_base_config(found.path),
                    store,
                    tokens,
                )
            )
    except KeyboardInterrupt:
        return 130
    except SystemExit:
        return 0


async def _serve(
    settings: Settings,
    args: Namespace,
    registry: Registry,
    base: Base,
    keys: Keys,
    config: dict[str, Any],
    store: Store,
    tokens: Tokens,
) -> int:
    from serve.engines import vllm_engine

    sock = vllm_engine.bind(args)
    with (
        Follower(registry) as follower,
        keys,
        Holding(registry.location) as holding,
        Recorder(store) as recorder,
    ):
        async with vllm_engine.opened(args) as engine:
            await engine.check()
            lease = EngineLease(holding, engine)
            metrics = Metrics()
            turn_s = settings.slot_turn_s
            rotation = Rotation(engine.slots, turn_s) if turn_s else None
            admission = Admission(Residency(engine, config, lease.coming, metrics, rotation))
            handover = Handover(lambda: follower.current, admission.residency, base)
            handover.look()  # so that the first request finds the registry
            note = Note(registry.location, args.port)
            before = await asyncio.to_thread(note.read)
            warming = Warming(
                admission.residency,
                wanted(handover.current, base, before, engine.memory_places),
                before.pinned,
            )
            loop = asyncio.get_running_loop()
            metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
            metrics.registry_age_s.set_function(lambda: follower.age_s)
            metrics.registry_problems.set_function(lambda: len(follower.current.troubles))
            readiness = Readiness(
                engine,
                Drain(),
                registry_age_s=lambda: follower.age_s,
                registry_reachable=lambda: follower.current.reachable,
                waiting=lambda: warming.left,
            )
            recording = Recording(recorder, tokens, metrics)
            experiment_metrics = ExperimentMetrics()
            shadows = Shadows(
                engine, admission, lambda: handover.current, base, store, experiment_metrics
            )
            feedback = Feedback(
                store,
                recorder,
                tokens,
                registry,
                metrics,
                snapshot=lambda: follower.current,
                recent=recording.recent,
            )
            gate = partial(
                Gate,
                engine=engine,
                readiness=readiness,
                recording=recording,
                admission=admission,
                snapshot=lambda: handover.current,
                base=base,
                keys=keys,
                control=Control(registry, store),
                shadows=shadows,
                feedback=feedback,
            )
            background = [
                asyncio.create_task(each)
                for each in (
                    _keep(admission, handover, lease, note, warming, metrics, recorder),
                    handover.run(),
                    warming.run(),
                    Keeper(registry, store, lambda: handover.current, experiment_metrics).run(),
                )
            ]
            try:

                def outermost(app: ASGIApp) -> ASGIApp:
                    return Observer(
                        gate(app),
                        metrics,
                        tracing=_tracing(args),
                        log_prompts=settings.log_prompts,
                        recording=recording.over,
                    )

                return 130 if await engine.listen(sock, outermost, readiness.drain) else 0
            finally:
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, shadows.close(), return_exceptions=True)
                feedback.close()


def _tracing(args: Namespace) -> Tracing | None:
    """Trace with what vLLM has set up by now, where it has."""
    return Tracing(get_tracer("switchyard")) if args.otlp_traces_endpoint else None


def _keys(settings: Settings, args: Namespace) -> Keys:
    """Take the keys from vLLM: its own check leaves paths open and knows one header only.

    Raises:
        UsageError: there is none, and others than this machine would get in.
    """
    keys = Keys(
        [*settings.api_keys, *(key for key in args.api_key or () if key)],
        KeyJournal(),
        open_metrics=settings.open_metrics,
        isolated=not settings.share_prefix_cache,
    )
    args.api_key = None
    if not keys.needed and not settings.insecure and not args.uds:
        check_exposure(args.host)
    asked = "asked of every request" if keys.needed else "none, so everybody who gets here may ask"
    log.info("Keys: %s (adapters keys list)", asked)
    return keys


async def _keep(
    admission: Admission,
    handover: Handover,
    lease: EngineLease,
    note: Note,
    warming: Warming,
    metrics: Metrics,
    recorder: Recorder,
) -> None:
    """Once a second, let go of what is served no more, and say what is held."""
    snapshot, known, labels = EMPTY, frozenset[str](), frozenset[tuple[str, str]]()
    while True:
        await asyncio.sleep(_KEEP_S)
        if handover.current is not snapshot:
            snapshot = handover.current
            versions = snapshot.versions()
            known = frozenset(version.engine_name for version in versions)
            labels = frozenset((version.name, f"v{version.number}") for version in versions)
        try:
            await admission.forget(known)
            await admission.residency.keep_up()
        except Exception:
            log.exception("What the engine holds could not be brought in line with the registry")
        metrics.keep(labels)
        metrics.standing(admission.residency.count(known))
        metrics.waiting(admission.waiting)
        metrics.exposed(
            written=recorder.written, dropped=recorder.dropped, waiting=recorder.waiting
        )
        await lease.renew()
        if not warming.left:
            served = held(admission.residency, admission.most_together)
            await asyncio.to_thread(note.write, served)


def _stop_loading(*_: object) -> NoReturn:
    raise SystemExit
