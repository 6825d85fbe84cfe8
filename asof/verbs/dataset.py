"""Builds the features of a service for many rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from asof.contract import Contract
from asof.errors import CheckFailedError, SourceError, UsageError
from asof.quantities import counted
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo
from asof.tables import reading
from asof.verbs.get import LIST, parsed

SHOWN_ROWS = 5
"""Rows of a dataset in memory that are printed."""


@dataclass(frozen=True, repr=False)
class BuiltDataset(Rendered):
    """Entity rows and their features, in a Parquet file or in memory.

    Attributes:
        file: The file; None for rows in memory.
        rows: Number of rows.
        features: Number of features; None for a rebuilt dataset, likewise for the next three.
        at: Column of the rows' moments.
        tables: Table -> version that was read.
        files: Source of plain Parquet, which has no versions -> SHA-256 of its contents.
        like: The dataset that it was rebuilt from and is identical to; None for a new one.
    """

    file: Path | None
    rows: int
    features: int | None = None
    at: str | None = None
    tables: dict[str, int] | None = None
    files: dict[str, str] | None = None
    like: Path | None = None
    held: pa.Table | None = None

    @property
    def table(self) -> pa.Table:
        """The rows; a file is read anew each time."""
        return pq.read_table(self.file) if self.held is None else self.held

    def parts(self) -> Iterator[str | ResultTable]:
        """What is where, and what it was made from."""
        if self.like is not None:
            yield f"{self.file} is byte by byte what {self.like} is"
        else:
            sources = [f"{name} version {version}" for name, version in (self.tables or {}).items()]
            sources += [f"{name} SHA-256 {digest[:12]}" for name, digest in (self.files or {}).items()]
            target = "" if self.file is None else f" -> {self.file}"
            yield f"{counted(self.rows, 'row')} x {counted(self.features or 0, 'feature')}{target} ({', '.join(sources) or 'no stored features'})"
        if self.held is not None:
            first = self.held.slice(0, SHOWN_ROWS)
            columns = [first[name].to_pylist() for name in first.column_names]
            yield ResultTable(first.column_names, [[_shown(v) for v in row] for row in zip(*columns, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """The file as JSON-ready data."""
        if self.like is not None:
            return {"file": str(self.file), "like": str(self.like), "identical": True}
        return {
            "file": None if self.file is None else str(self.file),
            "rows": self.rows,
            "features": self.features,
            "at": self.at,
            "tables": self.tables,
            "files": self.files,
        }


def dataset(
    repo: Repo,
    service: str | None = None,
    entities: Path | pa.Table | None = None,
    output: Path | None = None,
    *,
    at: str | None = None,
    like: Path | None = None,
) -> BuiltDataset:
    """Write the features of a service for many rows, each as known at its own moment.

    Args:
        repo: The feature repo.
        service: The feature service.
        entities: Parquet or CSV file of keys, moments and request fields, or such rows in memory.
        output: Parquet file to write, which may be larger than memory; without one the rows stay in memory.
        at: Column of the rows' moments; by default event_timestamp, or the only time column.
        like: Rebuild this earlier dataset from the same rows and table versions, instead of ``service``, ``entities`` and ``at``.

    Raises:
        UsageError: The arguments do not fit each other.
        NotFoundError: There is no such service.
        SchemaError: The rows lack a column.
        SourceError: A file or a table cannot be read.
        CheckFailedError: The rebuilt dataset differs from ``like``.
    """
    if output is not None and output.suffix.lower() != ".parquet":
        raise UsageError(f"got the output file {output}, expected a name that ends in .parquet")
    if like is not None:
        if service or entities is not None or at:
            raise UsageError(
                "--like takes service, rows and moments from the earlier dataset; leave SERVICE, --entities and --at out"
            )
        if output is None:
            raise UsageError("--like rebuilds a file; expected --output FILE")
        return _again(repo, like, output)
    if service is None or entities is None:
        raise UsageError("expected SERVICE and --entities FILE, or --like FILE")
    return _new(repo, service, entities, output, at)


def _new(repo: Repo, service: str, entities: Path | pa.Table, output: Path | None, at: str | None) -> BuiltDataset:
    from asof.offline import retrieve, retrieve_to
    from asof.offline.provenance import files_digest
    from asof.offline.retrieval import PreparedRetrieval

    contract = repo.contract(service)
    if isinstance(entities, pa.Table):
        rows, schema, origin = entities, entities.schema, "the table"
    else:
        texts = [f.name for f in (*contract.keys, *contract.request_fields) if f.dtype == "string"]
        (rows, schema), origin = entity_rows(entities, texts), str(entities)
    column = at or moment_column(schema, origin)
    if isinstance(rows, pa.Table):
        rows = _parsed_lists(contract, rows)
    if output is not None:
        made = retrieve_to(output, contract, rows, at=column, repo=repo.path)
        return BuiltDataset(output, made.rows, len(contract.features), column, dict(made.tables), dict(made.files))
    given = rows if isinstance(rows, pa.Table) else pq.read_table(rows)
    prepared = PreparedRetrieval.of(contract, given.schema, column, repo.path)
    digests = {f.source: files_digest(f) for f in prepared.files.values() if f.version is None}
    found = retrieve(contract, given, at=column, repo=repo.path, versions=prepared.versions)
    return BuiltDataset(None, found.num_rows, len(contract.features), column, prepared.versions, digests, held=found)


def _parsed_lists(contract: Contract, rows: pa.Table) -> pa.Table:
    """The rows, with lists where a request field is a list and the column has texts, as in a CSV file."""
    for field in contract.request_fields:
        place = rows.schema.get_field_index(field.name)
        if LIST.fullmatch(field.dtype) and place >= 0 and pa.types.is_string(rows.schema.field(place).type):
            texts = rows[field.name].to_pylist()
            values = [None if t in {None, "", "null", "None"} else parsed(field, t, row) for row, t in enumerate(texts)]
            rows = rows.set_column(place, field.name, pa.array(values))
    return rows


def _again(repo: Repo, like: Path, output: Path) -> BuiltDataset:
    from asof.offline import rebuild

    made = rebuild(like, output, repo.path)
    if not made.identical:
        raise CheckFailedError(
            f"{output} was made like {like} but differs from it; was it made by another version of asof?"
        )
    return BuiltDataset(output, made.provenance.rows, like=like)


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)


def entity_rows(path: Path, texts: Iterable[str] = ()) -> tuple[pa.Table | Path, pa.Schema]:
    """The entity rows of a file, a Parquet file left where it is, and their schema.

    Args:
        path: A Parquet or CSV file.
        texts: Columns of strings, which a CSV file does not tell from numbers.

    Raises:
        SourceError: The file is missing, empty, or cannot be read.
        UsageError: It is neither Parquet nor CSV.
    """
    (file,) = reading.files([path]) if not path.is_dir() else [path]
    if file.is_dir():
        raise UsageError(f"got the folder {path}, expected one Parquet or CSV file of entity rows")
    try:
        if file.name.lower().endswith(".parquet"):
            return file, pq.read_schema(file)
        table = reading.typed_csv(file, texts)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}; is it complete?") from error
    return table, table.schema


def moment_column(schema: pa.Schema, origin: str) -> str:
    """The column of the rows' moments where none is named.

    Raises:
        UsageError: There is none, or more than one.
    """
    times = [f.name for f in schema if pa.types.is_temporal(f.type)]
    if "event_timestamp" in schema.names:
        return "event_timestamp"
    if len(times) != 1:
        raise UsageError(
            f"{origin} has {len(times)} time columns ({', '.join(times) or 'none'}); name the rows' moments with --at COLUMN"
        )
    return str(times[0])
