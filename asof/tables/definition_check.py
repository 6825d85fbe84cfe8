"""Compares definitions with the tables and files that exist: columns, types, times and keys.

Only logs of Delta tables and footers of Parquet files are read. What does not exist yet is no fault. A Delta table with ``asof.column``
tags has the declared columns, also those that no row was ingested with yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from asof.contract import Source, View
from asof.errors import SourceError
from asof.offline.arrow_columns import is_moment
from asof.offline.sources import Misfit, locate, misfits, open_files
from asof.tables.checking import disagreements
from asof.tables.schema import TableDeclaration


@dataclass(frozen=True, slots=True)
class DefinitionFault:
    """A definition that does not fit its table: its name, such as "view spending", and a sentence on what is wrong and what to do."""

    definition: str
    problem: str

    def __str__(self) -> str:
        """The problem, which names the definition."""
        return self.problem

    def to_dict(self) -> dict[str, Any]:
        """The fault as JSON-ready data."""
        return asdict(self)


def definition_faults(
    tables: Mapping[str, TableDeclaration], views: Iterable[View], repo: Path
) -> tuple[DefinitionFault, ...]:
    """All faults of all definitions: of tables first, each fault once.

    Args:
        tables: Tables by name.
        views: Stored feature views.
        repo: Folder that relative paths start at.
    """
    readers = list(views)
    found: list[DefinitionFault] = []
    for name, table in tables.items():
        try:
            schema = _existing(_source(table), repo)
        except SourceError as error:
            found.append(DefinitionFault(f"source {name}", str(error)))
            continue
        found += [
            DefinitionFault(f"source {name}", f"source {name!r} {problem}") for problem in disagreements(table, schema)
        ]
        columns = _with_declared(table, schema)
        if columns is not None:
            found += _faults(table, columns, [v for v in readers if v.source.name == name])
    return tuple(found)


def _faults(table: TableDeclaration, columns: pa.Schema, readers: Iterable[View]) -> Iterator[DefinitionFault]:
    named = set()
    for view in readers:
        for misfit in misfits(view, columns, [f.name for f in view.features]):
            named.add(misfit.column)
            yield DefinitionFault(f"view {view.name}", str(misfit))
    own = {
        "timestamp_field": table.timestamp_field,
        "created_timestamp_column": table.knowledge_field,
        "the tag asof.id": table.id,
    }
    for owner, column in own.items():
        if not column or column in named:
            continue
        stored = columns.field(column).type if column in columns.names else None
        declared = "the event id" if column == table.id else "a timestamp"
        if stored is None or (column != table.id and not is_moment(stored)):
            given = None if stored is None else str(stored)
            misfit = Misfit(owner, table.name, table.path, column, declared, given, tuple(columns.names))
            yield DefinitionFault(f"source {table.name}", str(misfit))


def _existing(source: Source, repo: Path) -> pa.Schema | None:
    """The columns of the files of ``source``; None if there are no files yet.

    Raises:
        SourceError: The files cannot be read.
    """
    try:
        return open_files(source, repo).schema
    except SourceError:
        if _exists(locate(source.path, repo), source.format):
            raise
        return None


def _exists(path: Path, kind: str) -> bool:
    """Whether there is a table or a file at ``path``; data files without a Delta log are of an append that did not finish."""
    if path.is_dir():
        return any((path / "_delta_log").glob("*.json")) or (kind != "delta" and any(path.rglob("*.parquet")))
    return path.exists() or path.is_symlink()


def _with_declared(table: TableDeclaration, existing: pa.Schema | None) -> pa.Schema | None:
    """The columns that the table has or will have; None if nobody can know them yet."""
    declared = table.columns if table.format == "delta" else ()
    held = existing if existing is not None else pa.schema([])
    fields = [*held, *(pa.field(c.name, c.arrow) for c in declared if c.name not in held.names)]
    return pa.schema(fields) if fields else None


def _source(table: TableDeclaration) -> Source:
    return Source(table.name, table.path, table.format, table.timestamp_field, table.knowledge_field)
