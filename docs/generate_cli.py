"""Writes docs/cli.md from the commands' own help texts: ``python docs/generate_cli.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from asof.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "cli.md"
LINES: Any = {"max_content_width": 100, "terminal_width": 100}

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
| 4 | nothing to judge: no predictions in the span, or too few known labels |

An error is one line. `ASOF_DEBUG=1` shows the traceback of an unexpected one.
"""


def render() -> str:
    """The whole page; the options of ``asof simulate`` are those of the example's simulator."""
    root = click.Context(
        cli,
        info_name="asof",
        obj={"repo": str(ROOT / "feature_repo"), "json": False},
        help_option_names=["-h", "--help"],
        **LINES,
    )
    return "\n".join([HEADER, *(_section(context) for context in [root, *_contexts(root)])])


def _contexts(root: click.Context) -> Iterator[click.Context]:
    for name in sorted(COMMANDS):
        command = cli.get_command(root, name)
        if command is None:
            continue
        context = click.Context(command, info_name=name, parent=root, **LINES)
        yield context
        for inner, nested in sorted(getattr(command, "commands", {}).items()):
            yield click.Context(nested, info_name=inner, parent=context, **LINES)


def _section(context: click.Context) -> str:
    return f"## {context.command_path}\n\n```text\n{context.command.get_help(context)}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(render())
