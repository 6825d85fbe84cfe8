"""The quarantine of bad rows: a Delta table for each table, with file, row number, reason and content of each row.

Rows are set aside before the good ones are committed, so that none is lost in between; a file that is read again does not
set the same row aside twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from asof.repo import Repo
from asof.tables import delta
from asof.tables.checking import BadRow

SCHEMA = pa.schema(
    {
        "source": pa.string(),
        "row_number": pa.int64(),
        "reason": pa.string(),
        "content": pa.string(),
        "quarantined_at": pa.timestamp("us", "UTC"),
    }
)
_IDENTITY = ["source", "row_number", "reason", "content"]


def folder(repo: Repo, table: str) -> Path:
    """The folder of the quarantine of ``table``."""
    name = (
        table
        if delta.plain_name(table)
        else f"{re.sub('[^0-9A-Za-z]+', '-', table)}-{sha256(table.encode()).hexdigest()[:8]}"
    )
    return delta.check_folder(repo.settings.data / "quarantine" / name)


def set_aside(repo: Repo, table: str, bad: Sequence[BadRow], now: int, *, again: bool) -> None:
    """Write ``bad`` to the quarantine of ``table``; call it with the table's lock held.

    Args:
        repo: The feature repo.
        table: Name of the table.
        bad: The rows, at least one.
        now: The wall clock.
        again: Whether the rows come from files; a row of a file that is ingested again is quarantined once.

    Raises:
        TableError: They cannot be written.
    """
    path = folder(repo, table)
    rows = pa.table(
        [
            [row.source for row in bad],
            [row.number for row in bad],
            [row.reason for row in bad],
            [row.content for row in bad],
            pa.array([now] * len(bad), pa.int64()).cast(SCHEMA.field("quarantined_at").type),
        ],
        schema=SCHEMA,
    )
    fresh = _fresh(path, rows) if again else rows
    if fresh.num_rows:
        delta.append(path, fresh, {"asof.table": table})


def count(repo: Repo, table: str) -> int:
    """Number of rows in the quarantine of ``table``."""
    held = delta.open_table(folder(repo, table))
    return held.count() if held is not None else 0


def _fresh(path: Path, rows: pa.Table) -> pa.Table:
    held = delta.open_table(path)
    if held is None:
        return rows
    known = delta.scan(held, _IDENTITY, "source", rows["source"].unique())
    return rows.filter(pc.invert(pc.is_in(_identity(rows), value_set=_identity(known))))


def _identity(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*(rows[name].cast(pa.string()) for name in _IDENTITY), "\x1f")
