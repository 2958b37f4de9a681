"""The `adapters` command. Parses, makes one call, renders; no domain rules.

Commands are imported when they are asked for, so `adapters --help` imports nothing heavy and
answers at once. One wrapper turns the error tree into a message and an exit code.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from adapters import __version__
from adapters.errors import AdaptersError, nearest

_COMMANDS = {
    "demo": ("adapters.cli.demo:demo", "Train, serve and compare two versions, end to end."),
    "train": ("adapters.cli.train:train", "Train a LoRA adapter and publish it as a version."),
    "sweep": ("adapters.cli.sweep:sweep", "Search a recipe's ranges, publish the best trial."),
    "lr-find": ("adapters.cli.lr_find:lr_find", "Find a learning rate by a range test."),
    "data": ("adapters.cli.data:app", "Find out what a dataset holds before training on it."),
    "serve": ("adapters.cli.serve:serve", "Serve the registry's adapters through vLLM."),
    "keys": ("adapters.cli.keys:app", "Say who may ask the server for which adapters."),
    "ps": ("adapters.cli.ps:ps", "Show what a running server has loaded."),
    "logs": ("adapters.cli.logs:logs", "Show what a server logged."),
    "doctor": ("adapters.cli.doctor:doctor", "Find out what is wrong with this machine."),
    "ab": ("adapters.cli.ab:app", "Split live traffic between versions."),
    "canary": ("adapters.cli.canary:canary", "Have a version take over by steps."),
    "list": ("adapters.cli.registry:list_", "List adapters, or the versions of one."),
    "show": ("adapters.cli.registry:show", "Show one version."),
    "diff": ("adapters.cli.diff:diff", "Show how two versions differ."),
    "lint": ("adapters.cli.lint:lint", "Check that vLLM serves an adapter as PEFT does."),
    "import": ("adapters.cli.importing:import_", "Publish an adapter that was made elsewhere."),
    "prompt": ("adapters.cli.prompt:app", "Publish a system prompt or shots as a version."),
    "push": ("adapters.cli.transfer:push", "Send a version to another registry."),
    "pull": ("adapters.cli.transfer:pull", "Fetch a version from another registry."),
    "extract": ("adapters.cli.extract:extract", "Turn a full fine-tune into an adapter."),
    "merge": ("adapters.cli.merge:merge", "Merge versions of one base into a new one."),
    "promote": ("adapters.cli.registry:promote", "Point an alias at a version."),
    "demote": ("adapters.cli.registry:demote", "Remove an alias; its history stays."),
    "rollback": ("adapters.cli.registry:rollback", "Point an alias back at what it was."),
    "tag": ("adapters.cli.housekeeping:tag", "Change a version's tags and notes."),
    "log": ("adapters.cli.registry:log", "Show what was done to an adapter."),
    "protect": ("adapters.cli.housekeeping:protect", "Have an alias move only with --yes."),
    "verify": ("adapters.cli.housekeeping:verify", "Find out what is damaged."),
    "retire": ("adapters.cli.housekeeping:retire", "Serve a version no more; it stays."),
    "delete": ("adapters.cli.housekeeping:delete", "Delete a version for good."),
    "gc": ("adapters.cli.housekeeping:gc", "Delete what nobody holds."),
    "du": ("adapters.cli.housekeeping:du", "Show how much of the disk is taken."),
}
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}


class _LazyGroup(TyperGroup):
    """A group that knows its commands' names and imports each on use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            if not ctx.resilient_parsing:
                ctx.fail(f"No such command {cmd_name!r}. {nearest(cmd_name, _COMMANDS)}")
            return None
        if cmd_name not in self.commands:
            module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
            target = getattr(import_module(module), attribute)
            if not isinstance(target, typer.Typer):
                command, target = target, typer.Typer(add_completion=False, **_PLAIN)
                target.command(cmd_name)(command)
            self.commands[cmd_name] = typer.main.get_command(target)
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in _COMMANDS.items()])


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, **_PLAIN)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lora-switchyard {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show stack traces.")] = False,
) -> None:
    """Train, version and serve many LoRA adapters of one base model, side by side.

    Start with: adapters demo

    Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 conflict, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the console script `adapters`.

    `--debug` may stand anywhere before `--`: then errors show their stack trace too.
    """
    ours, separator, theirs = _split(sys.argv[1:] if arguments is None else list(arguments))
    debug = "--debug" in ours
    # Stopped by a supervisor, a command cleans up as after Ctrl-C. 143 is what a shell would say.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app(args=[argument for argument in ours if argument != "--debug"] + separator + theirs)
    except AdaptersError as error:
        if debug:
            raise
        _fail(error.message, error.fix, error.exit_code)
    except Exception as error:
        if debug:
            raise
        said = f"{type(error).__name__}: {error}"
        _fail(f"Not foreseen: {said}", "Run it again with --debug, and report what it shows.", 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, fix: str, exit_code: int) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    if fix:
        typer.echo(f"  {fix}", err=True)
    sys.exit(exit_code)


def _split(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end : end + 1], arguments[end + 1 :]
