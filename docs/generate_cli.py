"""Writes docs/cli.md from the commands' own help texts: ``python docs/generate_cli.py``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from asof.cli import COMMANDS, cli

TARGET = Path(__file__).with_name("cli.md")
WIDTH = 100

HEADER = """\
# Command line reference

Made from the commands' help by `docs/generate_cli.py`; do not edit.

Every command takes `--json`. Standard output carries the answer and nothing else; progress and errors go to standard error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a check was run and said no (drift, a threshold, a mismatch) |
| 2 | wrong use: an unknown name, a missing column, a bad option |
| 3 | something failed: Redis is down, the disk is full |

An error is one line. `ASOF_DEBUG=1` shows the traceback of an unexpected one.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([HEADER, *(_section(name, command) for name, command in _commands())])


def _commands() -> Iterator[tuple[str, click.Command]]:
    root = click.Context(cli, info_name="asof")
    yield "asof", cli
    for name in sorted(COMMANDS):
        command = cli.get_command(root, name)
        if command is not None:
            yield f"asof {name}", command
            yield from ((f"asof {name} {inner}", c) for inner, c in sorted(getattr(command, "commands", {}).items()))


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, max_content_width=WIDTH, terminal_width=WIDTH)
    return f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    os.environ.pop("COLUMNS", None)
    TARGET.write_text(render())
