"""Appends rows to the files of a batch source, atomically."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from asof.atomic_file import replacing
from asof.contract import EVENT_ID_TAG
from asof.contract.arrow_types import parsed_moments
from asof.errors import SchemaError, TableError
from asof.offline.sources import locate
from asof.tables import delta
from asof.tables.ingest import new_rows

if TYPE_CHECKING:
    from feast import FileSource


def append(table: pa.Table, source: FileSource, repo: Path, *, events: bool = False) -> None:
    """Append rows to the files of a source.

    A Delta table keeps each event once, because it counts once online: rows whose id (tag ``asof.id``) the table already has are
    left out; where events have no id, rows that the table already has as a whole are left out.

    Args:
        table: Rows with the columns of the source, in any order, in types that can be cast to it without loss.
        source: Delta table, Parquet file or folder of Parquet files; it is created if it does not exist.
        repo: Folder that relative paths start at.
        events: Whether a windowed view reads from the source.

    Raises:
        SchemaError: The rows do not have the source's columns or types.
        TableError: The files cannot be written.
    """
    path = locate(source.path, repo)
    if _is_delta(source):
        _append_delta(table, path, source, events=events)
    elif path.is_dir() or path.suffix != ".parquet":
        add_file(_shaped(table, _folder_schema(path, table), source.name), path, _folder_partitions(path))
    else:
        _append_file(table, path, source.name)


def persist(table: pa.Table, source: FileSource, repo: Path, *, allow_overwrite: bool) -> None:
    """Write a table as the whole content of a source.

    Raises:
        SavedDatasetLocationAlreadyExists: The files exist and must not be overwritten.
    """
    from feast.errors import SavedDatasetLocationAlreadyExists

    path = locate(source.path, repo)
    if path.exists() and not allow_overwrite:
        raise SavedDatasetLocationAlreadyExists(location=source.path)
    if _is_delta(source):
        from deltalake import write_deltalake

        path.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(str(delta.check_folder(path)), table, mode="overwrite", schema_mode="overwrite")
    elif path.suffix == ".parquet":
        write_file(table, path)
    else:
        shutil.rmtree(path, ignore_errors=True)
        add_file(table, path, ())


def add_file(table: pa.Table, folder: Path, partition_by: Sequence[str]) -> None:
    """Add rows to a folder as new Parquet files; each file appears atomically."""
    names = list(partition_by)
    if not names:
        write_file(table, folder / f"part-{uuid.uuid4().hex}.parquet")
        return
    scheme = ds.partitioning(pa.schema([table.schema.field(n) for n in names]), flavor="hive")
    work = folder / f".writing-{uuid.uuid4().hex}"
    try:
        ds.write_dataset(
            table,
            work,
            format="parquet",
            partitioning=scheme,
            basename_template=f"part-{uuid.uuid4().hex}-{{i}}.parquet",
        )
        for file in sorted(work.rglob("*.parquet")):
            target = folder / file.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_file(table: pa.Table, path: Path) -> None:
    """Write one Parquet file atomically.

    Raises:
        TableError: The file cannot be written.
    """
    try:
        with replacing(path) as work:
            pq.write_table(table, work)
    except OSError as error:
        raise TableError(f"{path} cannot be written ({error.strerror or error})") from None


def _is_delta(source: Any) -> bool:
    from feast.data_format import DeltaFormat

    return isinstance(source.file_format, DeltaFormat)


def _append_delta(table: pa.Table, path: Path, source: FileSource, *, events: bool) -> None:
    key = source.tags.get(EVENT_ID_TAG)
    with delta.locked(path):
        held = delta.open_table(path)
        if held is not None:
            table = _shaped(table, delta.schema(held), source.name)
        fresh = new_rows(held, table, key) if key or events else table
        if fresh.num_rows:
            delta.append(path, fresh, {})


def _append_file(table: pa.Table, path: Path, name: str) -> None:
    if path.exists():
        before = pq.ParquetFile(path).read()
        table = pa.concat_tables([before, _shaped(table, before.schema, name)])
    write_file(table, path)


def _folder_schema(path: Path, table: pa.Table) -> pa.Schema:
    return (
        ds.dataset(path, format="parquet", partitioning="hive").schema if any(path.rglob("*.parquet")) else table.schema
    )


def _folder_partitions(path: Path) -> tuple[str, ...]:
    first = next(iter(sorted(path.rglob("*.parquet"))), None)
    parts = first.relative_to(path).parent.parts if first else ()
    return tuple(p.partition("=")[0] for p in parts if "=" in p)


def _shaped(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    if set(table.column_names) != set(schema.names):
        raise SchemaError(
            f"got the columns {', '.join(table.column_names)}, source {name!r} has {', '.join(schema.names)}"
        )
    try:
        return pa.table([_column(table[field.name], field.type) for field in schema], schema=schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SchemaError(
            f"rows do not have the types of source {name!r} ({reason}); cast them before writing"
        ) from None


def _column(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """``column`` cast without loss; text that becomes a moment is UTC where it has no zone."""
    if pa.types.is_timestamp(target) and pa.types.is_string(column.type):
        column = parsed_moments(column)
    return column.cast(target)
