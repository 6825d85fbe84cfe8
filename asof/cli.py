"""``asof``: thin verbs over the packages. The roof of the house: the one module that may reach every room, and only lazily.

Exit codes: 0 done, 1 a check said no, 2 wrong use, 3 something failed. Errors are one line on standard error.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from typing import Any

import click

from asof import __version__
from asof.errors import AsofError

COMMANDS = {
    "apply": "asof.commands.contract:apply",
    "build": "serving.commands:build",
    "clean": "asof.commands.clean:command",
    "dataset": "asof.commands.features:dataset",
    "demo": "asof.commands.demo:demo",
    "doctor": "asof.commands.doctor:doctor",
    "drift": "monitoring.commands:drift",
    "drill": "monitoring.commands:drill",
    "get": "asof.commands.features:get",
    "ingest": "asof.commands.tables:ingest",
    "materialize": "asof.commands.features:materialize",
    "models": "training.commands:models",
    "performance": "monitoring.commands:performance",
    "plan": "asof.commands.contract:plan",
    "profile": "monitoring.commands:profile",
    "push": "asof.commands.tables:push",
    "redis": "asof.commands.redis:redis",
    "replay": "serving.commands:replay",
    "serve": "serving.commands:serve",
    "simulate": "asof.commands.tables:simulate",
    "skew": "monitoring.commands:skew",
    "stream": "asof.commands.stream:stream",
    "tables": "asof.commands.tables:tables",
    "train": "training.commands:train",
}
"""Verb -> ``module:command``; a verb's module is imported when the verb is used."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use, so that ``asof --help`` and each verb pay only for themselves."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command with the shared options added, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return _with_json(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the closest verb named for a mistyped one."""
        from asof.errors import NotFoundError

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise NotFoundError("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


def _with_json(command: click.Command) -> click.Command:
    """``--json`` is accepted behind every verb as well as before it."""
    for inner in getattr(command, "commands", {}).values():
        _with_json(inner)
    if not any(p.name == "as_json" for p in command.params) and not isinstance(command, click.Group):
        command.params.append(
            click.Option(
                ["--json", "as_json"], is_flag=True, expose_value=False, callback=_set_json, help="Answer in JSON."
            )
        )
    return command


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().obj["json"] = True


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--repo", metavar="PATH", help="Feature repo; default $ASOF_REPO, then . or ./feature_repo.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.version_option(__version__, prog_name="asof")
@click.pass_context
def cli(ctx: click.Context, repo: str | None, as_json: bool) -> None:
    """Time-true features from Feast definitions: the same value in training, serving and monitoring."""
    ctx.obj = {"repo": repo, "json": as_json}


def main() -> None:
    """Entry point of the ``asof`` console script; ``ASOF_DEBUG=1`` shows the traceback of what failed unexpectedly."""
    arguments = sys.argv[1:]
    _quiet()
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
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the reader left; nothing more can be said to it
        sys.exit(0)
    except Exception as error:
        if os.environ.get("ASOF_DEBUG") == "1":
            raise
        sys.exit(_fail(_unexpected(error), 3, arguments))
    sys.exit(code if isinstance(code, int) else 0)


def _quiet() -> None:
    """Keep the warnings of libraries, which resist filters, from the user's terminal; ``ASOF_DEBUG=1`` and ``-W`` let them through."""
    if not sys.warnoptions and os.environ.get("ASOF_DEBUG") != "1":
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").addHandler(logging.NullHandler())


def _unexpected(error: Exception) -> str:
    said = str(error) or "no message"
    return f"{type(error).__name__}: {said} (ASOF_DEBUG=1 shows where)"


def _fail(message: str, code: int, arguments: list[str]) -> int:
    line = " ".join(message.split())
    if "--json" in arguments:
        click.echo(json.dumps({"error": line, "exit_code": code}))
    click.echo(f"asof: {line}", err=True)
    return code


def repo_option(ctx: click.Context) -> Any:
    """The ``--repo`` that the command line was given, or None."""
    return ctx.find_root().obj.get("repo")


if __name__ == "__main__":
    main()
