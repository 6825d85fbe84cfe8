"""The command line ``asof``. The module of a command is imported when the command is used.

Exit codes: 0 done, 1 a check failed, 2 wrong use, 3 something failed. An error is one line on standard error.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asof.errors import AsofError
from asof.feast.type_checks import defer
from asof.version import __version__

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

COMMANDS = {
    "apply": "asof.commands.contract:apply",
    "build": "asof.serving.commands:build",
    "clean": "asof.commands.clean:command",
    "dataset": "asof.commands.features:dataset",
    "demo": "asof.commands.demo:demo",
    "doctor": "asof.commands.doctor:doctor",
    "drift": "asof.monitoring.commands:drift",
    "drill": "asof.monitoring.commands:drill",
    "get": "asof.commands.features:get",
    "ingest": "asof.commands.tables:ingest",
    "init": "asof.commands.init:init",
    "materialize": "asof.commands.features:materialize",
    "models": "asof.training.commands:models",
    "performance": "asof.monitoring.commands:performance",
    "plan": "asof.commands.contract:plan",
    "profile": "asof.monitoring.commands:profile",
    "push": "asof.commands.tables:push",
    "redis": "asof.commands.redis:redis",
    "replay": "asof.serving.commands:replay",
    "serve": "asof.serving.commands:serve",
    "simulate": "asof.commands.tables:simulate",
    "skew": "asof.monitoring.commands:skew",
    "stream": "asof.commands.stream:stream",
    "tables": "asof.commands.tables:tables",
    "train": "asof.training.commands:train",
}
"""Command -> ``module:attribute``."""

PLUGINS = "asof.commands"
"""The entry point group in which other packages declare commands: name -> click command."""


@cache
def _declared() -> list[EntryPoint]:
    """All commands that installed packages declare. Not called for built-in commands, because it takes some milliseconds."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group=PLUGINS), key=lambda point: (point.name, _package(point), point.value))


def plugins() -> dict[str, EntryPoint]:
    """The commands that installed packages add, by name. A built-in command of the same name wins, then the first package by name."""
    found: dict[str, EntryPoint] = {}
    for point in _declared():
        if point.name not in COMMANDS:
            found.setdefault(point.name, point)
    return found


def clashes() -> list[str]:
    """One line for each command of an installed package that another command of the same name hides."""
    shown, lines = plugins(), []
    for point in _declared():
        winner = shown.get(point.name)
        if winner is not point:
            other = "is built in" if winner is None else f"comes from {_package(winner)}"
            lines.append(
                f"the command {point.name!r} of {_package(point)} ({point.value}) is ignored: {point.name!r} {other}"
            )
    return lines


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module


def _load(point: EntryPoint) -> click.Command:
    """The command of a plug-in; if it cannot be loaded, a command that fails with the reason, so that other commands still work."""
    try:
        command = point.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"got {type(command).__name__}, expected a click command")
    except Exception as error:  # noqa: BLE001 - whatever a plug-in raises, the other commands work
        return _broken(point, error)
    return _with_json(command)


def _broken(point: EntryPoint, cause: Exception) -> click.Command:
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"

    def fail() -> None:
        raise AsofError(
            f"the command {point.name!r} of {_package(point)} ({point.value}) cannot be loaded: {reason}; "
            f"repair or uninstall {_package(point)}"
        ) from cause

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    help_text = f"Cannot be loaded from {_package(point)}: {reason}"
    return click.Command(point.name, callback=fail, short_help=help_text, help=help_text, context_settings=anything)


class LazyGroup(click.Group):
    """A group that imports each command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, sorted, including those of installed packages. Hidden ones are reported on standard error."""
        for line in clashes():
            click.echo(f"asof: {line}", err=True)
        return sorted([*COMMANDS, *plugins()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with the shared options added, or None."""
        if cmd_name not in COMMANDS:
            point = plugins().get(cmd_name)
            return None if point is None else _load(point)
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return _with_json(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, but the error for an unknown command names the closest one."""
        from asof.errors import NotFoundError

        if args and not args[0].startswith("-") and args[0] not in COMMANDS and args[0] not in plugins():
            raise NotFoundError("command", args[0], [*COMMANDS, *plugins()])
        return super().resolve_command(ctx, args)


def _with_json(command: click.Command) -> click.Command:
    """``command`` with an option ``--json``, so that it can be given after the command as well as before."""
    for inner in getattr(command, "commands", {}).values():
        _with_json(inner)
    if not any(p.name == "as_json" for p in command.params) and not isinstance(command, click.Group):
        command.params.append(
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                expose_value=False,
                callback=_set_json,
                help="Print the result as JSON.",
            )
        )
    return command


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().obj["json"] = True


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--repo", metavar="PATH", help="Feature repo; default $ASOF_REPO, then . or ./feature_repo.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.version_option(__version__, prog_name="asof")
@click.pass_context
def cli(ctx: click.Context, repo: str | None, as_json: bool) -> None:
    """Features from Feast definitions, with the same values in training, serving and monitoring."""
    if given := os.environ.get("ASOF_REPO"):  # a command may start processes in another folder
        os.environ["ASOF_REPO"] = str(Path(given).resolve())
    ctx.obj = {"repo": repo, "json": as_json}


def main() -> None:
    """Entry point of the ``asof`` console script; ``ASOF_DEBUG=1`` shows the traceback of an unexpected error."""
    arguments = sys.argv[1:]
    _quiet()
    defer()
    try:
        code = cli.main(args=arguments, prog_name="asof", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        sys.exit(_fail("stopped", 3, arguments))
    except click.ClickException as error:
        sys.exit(_fail(error.format_message(), 2, arguments))
    except AsofError as error:
        sys.exit(_fail(str(error), error.exit_code, arguments))
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the reader of the pipe has closed it
        sys.exit(0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the libraries in Rust panic with exceptions that are no Exception
        if os.environ.get("ASOF_DEBUG") == "1":
            raise
        sys.exit(_fail(_unexpected(error), 3, arguments))
    sys.exit(code if isinstance(code, int) else 0)


def _quiet() -> None:
    """Hide the warnings of libraries; ``ASOF_DEBUG=1`` and ``-W`` show them."""
    if not sys.warnoptions and os.environ.get("ASOF_DEBUG") != "1":
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").addHandler(logging.NullHandler())


def _unexpected(error: BaseException) -> str:
    said = str(error) or "no message"
    return f"{type(error).__name__}: {said} (ASOF_DEBUG=1 shows where)"


def _fail(message: str, code: int, arguments: list[str]) -> int:
    line = " ".join(message.split())
    if "--json" in arguments:
        click.echo(json.dumps({"error": line, "exit_code": code}))
    click.echo(f"asof: {line}", err=True)
    return code


def repo_option(ctx: click.Context) -> Any:
    """The value of ``--repo``, or None."""
    return ctx.find_root().obj.get("repo")


if __name__ == "__main__":
    main()
