"""Deletes files of Delta tables that neither the newest version nor a model needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from asof.bundle import Bundle, versions
from asof.errors import TableError
from asof.quantities import counted

if TYPE_CHECKING:
    from deltalake import DeltaTable

RETENTION_HOURS = 7 * 24
"""Files that left the table within this time are kept for running readers."""


def versions_in_use(models: Path) -> dict[str, set[int]]:
    """Table name -> versions that a model bundle in ``models`` was made from.

    Raises:
        BundleError: A bundle is damaged; nothing should be cleaned before that is settled.
    """
    used: dict[str, set[int]] = {}
    names = sorted(p.name for p in models.iterdir() if p.is_dir()) if models.is_dir() else []
    for model in names:
        for version in versions(models, model):
            bundle = Bundle.open(models / model / version, verify=False)
            for table, number in bundle.metadata.get("tables", {}).items():
                used.setdefault(table, set()).add(int(number))
    return used


def clean(
    path: Path, keep: Iterable[int], *, retention_hours: int = RETENTION_HOURS, dry_run: bool = False
) -> list[str]:
    """Delete the files of a Delta table that neither its newest version nor one of ``keep`` needs.

    Args:
        path: The table.
        keep: Versions that must stay readable, such as ``versions_in_use(models)[name]``.
        retention_hours: Files that left the table within this time stay.
        dry_run: Report what would be deleted, and delete nothing.

    Returns:
        The deleted files.

    Raises:
        TableError: There is no Delta table, or a version to keep is gone already.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(str(path))
        kept = sorted(set(keep) | {table.version()})
        for version in kept:
            files = pa.table(DeltaTable(str(path), version=version).get_add_actions(flatten=True))
            missing = [f for f in files["path"].to_pylist() if not (path / unquote(f)).exists()]
            if missing:
                raise TableError(
                    f"version {version} of {path} has lost {counted(len(missing), 'file')} already; nothing was cleaned"
                )
        found = _unneeded(table, kept, retention_hours, dry_run=True)
        # The log of a table still names files that an earlier vacuum deleted.
        there = [f for f in found if (path / f).exists()]
        if there and not dry_run:
            _unneeded(table, kept, retention_hours, dry_run=False)
    except (DeltaError, OSError, ValueError) as error:
        raise TableError(f"{path} cannot be cleaned ({str(error).partition(chr(10))[0]})") from None
    else:
        return there


def _unneeded(table: DeltaTable, kept: list[int], retention_hours: int, *, dry_run: bool) -> list[str]:
    """Files that no version in ``kept`` names. "full" includes files that no commit names, which a killed writer leaves behind."""
    return table.vacuum(
        retention_hours, dry_run=dry_run, enforce_retention_duration=False, full=True, keep_versions=kept
    )
