"""`adapters serve`: flags in, one call; ends with the server."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from adapters.cli.registry import RegistryOption


def serve(
    base: Annotated[str, typer.Option(help="tiny, a folder, or a Hub id.")],
    registry: RegistryOption = None,
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a Hub base.")] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="VLLM_API_KEY", help="A key that opens everything; may be repeated."),
    ] = None,
    drain_timeout: Annotated[
        int,
        typer.Option(metavar="SECONDS", min=0, help="What running requests get when it ends."),
    ] = 20,
    slot_turn: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="A slot's, where more adapters are asked for; 0: vLLM's order.",
        ),
    ] = 1.0,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines in without any key.")
    ] = False,
    open_metrics: Annotated[
        bool, typer.Option("--open-metrics", help="Show /metrics without an admin's key.")
    ] = False,
    share_prefix_cache: Annotated[
        bool, typer.Option("--share-prefix-cache", help="Across keys: faster, and less private.")
    ] = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="json: a document a line, vLLM's lines too.")
    ] = "text",
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Log what is asked, which nobody expects.")
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="ADAPTERS_STORE",
            help="Of experiments' results: sqlite:////FILE, postgresql+psycopg://USER@HOST/NAME.",
        ),
    ] = None,
    vllm_flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM_FLAGS]", help="Any of vLLM's flags.")
    ] = None,
) -> None:
    """Serve a base and every adapter version of it in the registry, through vLLM.

    Ask for model NAME, NAME@v3, NAME@production or the base. New versions, moved aliases and
    experiments are followed within a second, keys (`adapters keys`) too; no restart.

    Example: adapters serve --base tiny --port 8000 -- --max-model-len 512
    """
    from serve.launch import run
    from serve.settings import Settings

    settings = Settings(
        base,
        registry,
        revision,
        host,
        port,
        api_keys=tuple(api_key or ()),
        insecure=insecure,
        open_metrics=open_metrics,
        share_prefix_cache=share_prefix_cache,
        vllm_flags=tuple(vllm_flags or ()),
        drain_timeout_s=drain_timeout,
        slot_turn_s=slot_turn,
        log_format=log_format,
        log_prompts=log_prompts,
        store=store,
    )
    raise typer.Exit(run(settings))
