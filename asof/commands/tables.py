"""``asof ingest``, ``push``, ``tables``, ``simulate``: adds rows to tables and shows tables. Runs without Feast once the registry was read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import click

from asof import tables as tables_of
from asof.cli import repo_option
from asof.console import show
from asof.errors import AsofError
from asof.repo import Repo
from asof.settings import find_repo
from asof.verbs import simulate as simulating

FILES = click.Path(path_type=Path)


@click.command()
@click.argument("table", metavar="TABLE")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILES)
@click.pass_context
def ingest(ctx: click.Context, table: str, files: tuple[Path, ...]) -> None:
    """Add the rows of Parquet or CSV files, or of folders of them, to a table.

    Rows are checked against what is declared beside the source; ids seen before are not added twice; bad rows go to
    quarantine. All of it is one commit: a crash leaves the table as it was, and running it again adds nothing twice.

    Example: asof ingest orders orders.parquet
    """
    show(ctx, tables_of.ingest(Repo.open(repo_option(ctx)), table, files))


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILES)
@click.pass_context
def push(ctx: click.Context, source: str, files: tuple[Path, ...]) -> None:
    """Add the rows of files to a table and, at once, to the online views that read from it.

    SOURCE is a push source or a table. Pushing the same rows again changes nothing.

    Example: asof push orders_push new.parquet
    """
    show(ctx, tables_of.push(Repo.open(repo_option(ctx)), source, files))


@click.command()
@click.argument("name", metavar="[TABLE]", required=False)
@click.pass_context
def tables(ctx: click.Context, name: str | None) -> None:
    """Show every table, or the versions of one.

    Example: asof tables orders
    """
    show(ctx, tables_of.tables(Repo.open(repo_option(ctx)), name))


class SimulateCommand(click.Command):
    """Its options are the parameters of the repo's own ``simulate`` function, so that asof knows nothing of what is simulated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; a repo without a simulator is named before its options are missed."""
        if not {"-h", "--help"} & set(args):
            simulating.simulator(find_repo(repo_option(ctx)))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The fixed options and those of the repo's simulator; without a repo, the fixed ones only."""
        try:
            function = simulating.simulator(find_repo(repo_option(ctx)))
        except AsofError:
            return super().get_params(ctx)
        return [*_options(function), *super().get_params(ctx)]


@click.command(cls=SimulateCommand)
@click.option("-o", "--output", metavar="FILE", required=True, type=FILES, help="Parquet or CSV file to write.")
@click.pass_context
def simulate(ctx: click.Context, /, output: Path, **options: Any) -> None:
    """Make data with the simulator of the feature repo (its simulate.py), whose parameters are the options.

    The same options give the same rows.

    Example: asof simulate --seed 1 -o events.parquet
    """
    given = {name: value.date() if hasattr(value, "date") else value for name, value in options.items()}
    show(ctx, simulating.simulate(find_repo(repo_option(ctx)), output, **given))


def _options(function: Callable[..., Any]) -> list[click.Parameter]:
    helps = _argument_docs(inspect.getdoc(function) or "")
    return [_option(p, helps.get(p.name, "")) for p in inspect.signature(function, eval_str=True).parameters.values()]


def _option(parameter: inspect.Parameter, text: str) -> click.Option:
    required = parameter.default is inspect.Parameter.empty
    default = parameter.default.isoformat() if isinstance(parameter.default, date) else parameter.default
    return click.Option(
        [f"--{parameter.name.replace('_', '-')}", parameter.name],
        type=_click_type(parameter, text),
        required=required,
        default=None if required else default,
        show_default=not required,
        help=text,
    )


def _click_type(parameter: inspect.Parameter, text: str) -> click.ParamType[Any]:
    if parameter.annotation is int:
        least = next((n for n in (0, 1) if f"at least {n}" in text), None)
        return click.IntRange(min=least)
    return {float: click.FLOAT, date: click.DateTime(["%Y-%m-%d"]), bool: click.BOOL}.get(
        parameter.annotation, click.STRING
    )


def _argument_docs(doc: str) -> dict[str, str]:
    """Parameter -> its line in the ``Args:`` section."""
    _, _, section = doc.partition("Args:\n")
    lines = section.partition("\n\n")[0].splitlines()
    pairs = [line.strip().partition(": ") for line in lines]
    return {name: text for name, _, text in pairs if name.isidentifier()}
