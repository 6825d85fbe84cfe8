"""``asof clean``: deletes data files of tables that neither the models nor the datasets to keep need."""

from __future__ import annotations

from pathlib import Path

import click

from asof.cli import repo_option
from asof.console import show
from asof.offline.vacuum import RETENTION_HOURS
from asof.repo import Repo
from asof.verbs.clean import clean_tables


@click.command("clean")
@click.argument("names", metavar="[TABLE]...", nargs=-1)
@click.option(
    "--keep",
    "datasets",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A dataset that must stay rebuildable with `asof dataset --like FILE`; may be repeated.",
)
@click.option(
    "--hours",
    default=RETENTION_HOURS,
    show_default=True,
    type=click.IntRange(min=0),
    help="Files that left a table more recently than this stay, because a reader may still use them.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], datasets: tuple[Path, ...], hours: int, dry_run: bool) -> None:
    """Delete files that no version in use needs, from the given TABLEs or from all.

    In use are each table's newest version, the versions that the models of this repo were trained on, and those of the
    datasets that --keep names. Files that a crash left behind go too.

    Example: asof clean --dry-run
    """
    cleaned = clean_tables(Repo.open(repo_option(ctx)), names, keep=datasets, hours=hours, dry_run=dry_run)
    show(ctx, cleaned)
