"""Deletes data files of tables that neither the models nor the datasets to keep need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asof.console import progress
from asof.errors import NotFoundError
from asof.offline.provenance import Provenance
from asof.offline.vacuum import RETENTION_HOURS, clean, versions_in_use
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo
from asof.tables import TableState, states
from asof.tables.delta import locked


@dataclass(frozen=True, repr=False)
class CleanedTables(Rendered):
    """Files that were deleted.

    Attributes:
        deleted: Table -> files.
        kept: Table -> versions that are in use, beside the newest.
        dry_run: Whether the files are still there.
    """

    deleted: Mapping[str, Sequence[str]]
    kept: Mapping[str, set[int]]
    dry_run: bool

    def parts(self) -> Iterator[str | ResultTable]:
        """A line for each table."""
        if not self.deleted:
            yield "no table has versions yet; add rows with `asof ingest`"
            return
        rows = [
            (name, len(files), ", ".join(str(v) for v in sorted(self.kept.get(name, ()))) or None)
            for name, files in self.deleted.items()
        ]
        counted = "files to delete" if self.dry_run else "files deleted"
        yield ResultTable(("table", counted, "versions kept beside the newest"), rows)

    def to_dict(self) -> dict[str, Any]:
        """The files as JSON-ready data."""
        return {"dry_run": self.dry_run, "deleted": self.deleted}


def clean_tables(
    repo: Repo,
    names: Sequence[str] = (),
    *,
    keep: Sequence[Path] = (),
    hours: int = RETENTION_HOURS,
    dry_run: bool = False,
) -> CleanedTables:
    """Delete files of tables that no version in use needs.

    Args:
        repo: The feature repo.
        names: Tables; by default all.
        keep: Datasets that must stay rebuildable.
        hours: Files that left a table more recently than this stay, because a reader may still use them.
        dry_run: Only say what would be deleted.

    Raises:
        NotFoundError: There is no such table, or it has no versions.
        TableError: A version that is in use has lost files already; nothing was deleted.
    """
    used = _used(repo.settings.models, keep)
    chosen, deleted = _chosen(states(repo), names), {}
    with progress("cleaning tables", len(chosen)) as line:
        for state in chosen:
            path, kept = Path(state.path), used.get(state.table, set())
            with locked(path):
                deleted[state.table] = clean(path, kept, retention_hours=hours, dry_run=dry_run)
            line.advance()
    return CleanedTables(deleted, used, dry_run)


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
