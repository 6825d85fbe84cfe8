"""``asof clean``: deletes data files of tables that neither the models nor the datasets to keep need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from asof.cli import repo_option
from asof.console import emit, progress, table
from asof.errors import NotFoundError
from asof.offline.provenance import Provenance
from asof.offline.vacuum import RETENTION_HOURS, clean, versions_in_use
from asof.repo import Repo
from asof.tables import TableState, states
from asof.tables.delta import locked


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
    repo = Repo.open(repo_option(ctx))
    used = _used(repo.settings.models, datasets)
    chosen, deleted = _chosen(states(repo), names), {}
    with progress("cleaning tables", len(chosen)) as line:
        for state in chosen:
            path, kept = Path(state.path), used.get(state.table, set())
            with locked(path):
                deleted[state.table] = clean(path, kept, retention_hours=hours, dry_run=dry_run)
            line.advance()
    emit({"dry_run": dry_run, "deleted": deleted}, _told(deleted, used, dry_run=dry_run))


def _used(models: Path, datasets: Sequence[Path]) -> dict[str, set[int]]:
    used = versions_in_use(models)
    for file in datasets:
        for name, version in Provenance.read(file).tables.items():
            used.setdefault(name, set()).add(version)
    return used


def _chosen(found: Sequence[TableState], names: Sequence[str]) -> list[TableState]:
    """The Delta tables that have versions, or those of them that were named."""
    versioned = {s.table: s for s in found if s.version is not None}
    if unknown := [n for n in names if n not in versioned]:
        raise NotFoundError("table with versions", unknown[0], versioned)
    return [versioned[n] for n in names] if names else list(versioned.values())


def _told(deleted: Mapping[str, Sequence[str]], used: Mapping[str, set[int]], *, dry_run: bool) -> str:
    if not deleted:
        return "no table has versions yet; add rows with `asof ingest`"
    rows = [
        (name, len(files), ", ".join(str(v) for v in sorted(used.get(name, ()))) or None)
        for name, files in deleted.items()
    ]
    return table(("table", "files to delete" if dry_run else "files deleted", "versions kept beside the newest"), rows)
