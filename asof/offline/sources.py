"""Finds the files of declared sources, counts their rows and checks their columns, before any work starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq

from asof.errors import SourceError
from asof.offline.arrow_columns import fits, is_aggregable, is_moment
from asof.offline.duckdb_engine import path_literal

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from asof.contract import Source, View

_URI = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFiles:
    """The Parquet files of one source, as they are now or at a version.

    Attributes:
        source: The source's name.
        paths: Absolute paths, in source order.
        schema: Columns of the files, partition columns included.
        rows: How many rows there are.
        partitions: Columns that come from folder names (``name=value``); they are read as text.
        version: Version of the Delta table; None for plain Parquet.
    """

    source: str
    paths: tuple[str, ...]
    schema: pa.Schema
    rows: int
    partitions: tuple[str, ...]
    version: int | None

    @cached_property
    def scan(self) -> str:
        """The files as an SQL table function."""
        paths = ", ".join(path_literal(p) for p in self.paths)
        partitioned = f"hive_partitioning = {str(bool(self.partitions)).lower()}, hive_types_autocast = false"
        return f"read_parquet([{paths}], {partitioned}, union_by_name = {str(len(self.paths) > 1).lower()})"

    def bytes_of(self, columns: Iterable[str]) -> int:
        """Uncompressed size of ``columns``, from the first file's footer."""
        if not self.paths:
            return 0
        wanted, footer = set(columns), pq.read_metadata(self.paths[0])
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        chunks = [g.column(c) for g in groups for c in range(g.num_columns)]
        size: int = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in wanted)
        return size * self.rows // max(int(footer.num_rows), 1)


def open_files(source: Source, repo: Path, version: int | None = None) -> SourceFiles:
    """The files of ``source``; relative paths start at ``repo``.

    Raises:
        SourceError: They are missing or cannot be read, or the table has no such version.
    """
    path = locate(source.path, repo)
    if source.format == "delta":
        return _delta(source.name, path, version)
    return _parquet(source.name, path)


def locate(path: str, repo: Path) -> Path:
    """The absolute path that a source names.

    Raises:
        SourceError: It names something that is not on this machine.
    """
    is_uri = _URI.match(path) is not None
    if is_uri and not path.lower().startswith("file:"):
        raise SourceError(f"source path {path!r} is not on this machine; asof reads local files (mount it, or copy it)")
    local = Path(unquote(urlparse(path).path) if is_uri else path)
    return local if local.is_absolute() else repo / local


def check_view(view: View, files: SourceFiles, wanted: Sequence[str]) -> None:
    """Check that a view's source has the columns that the ``wanted`` features need, with fitting types.

    Raises:
        SourceError: It is empty, lacks a column, or a column has another type.
    """
    if not files.rows:
        raise SourceError(
            f"source {files.source!r} of view {view.name!r} has no rows; ingest data before asking for features"
        )
    source = view.source
    needed = [source.column(k.column) for k in view.join_keys]
    times = [source.timestamp_field, *([source.created_timestamp_column] if source.created_timestamp_column else [])]
    values = {source.column(c) for c in view.event_columns} if view.windowed else {source.column(f) for f in wanted}
    for name in (*needed, *times, *sorted(values)):
        if name not in files.schema.names:
            raise SourceError(
                f"source {files.source!r} of view {view.name!r} has no column {name!r}; it has {', '.join(files.schema.names)}"
            )
    for name in times:
        if not is_moment(files.schema.field(name).type):
            raise _mistyped(files, view, name, "a timestamp")
    _check_values(view, files, wanted)


def _check_values(view: View, files: SourceFiles, wanted: Sequence[str]) -> None:
    types = {name: files.schema.field(name).type for name in files.schema.names}
    for aggregation in view.aggregations:
        column = view.source.column(aggregation.column)
        if aggregation.column and not is_aggregable(types[column], aggregation.function):
            raise _mistyped(files, view, column, f"something that {aggregation.function} is defined for")
    for key in view.join_keys:
        if not fits(key.dtype, types[view.source.column(key.column)]):
            raise _mistyped(files, view, view.source.column(key.column), key.dtype)
    for name in () if view.windowed else wanted:
        if not fits(view.feature(name).dtype, types[view.source.column(name)]):
            raise _mistyped(files, view, view.source.column(name), view.feature(name).dtype)


def _mistyped(files: SourceFiles, view: View, column: str, expected: str) -> SourceError:
    given = files.schema.field(column).type
    return SourceError(
        f"column {column!r} of source {files.source!r} is {given}, but view {view.name!r} declares {expected}"
    )


def _parquet(name: str, path: Path) -> SourceFiles:
    found = _data_files(name, path)
    schemas, rows = [], 0
    for file in found:
        try:
            footer = pq.read_metadata(file)
            schemas.append(footer.schema.to_arrow_schema())
            rows += footer.num_rows
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise SourceError(
                f"source {name!r}: {file} is no readable Parquet file ({reason}); write it again"
            ) from None
    partitions = _partition_columns(path, found)
    schema = _unified(name, schemas, partitions)
    return SourceFiles(name, tuple(str(f) for f in found), schema, rows, partitions, None)


def _data_files(name: str, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        if (path / "_delta_log").is_dir():
            raise SourceError(f"source {name!r}: {path} is a Delta table; declare file_format=DeltaFormat()")
        inside = (f.relative_to(path) for f in path.rglob("*.parquet"))
        found = sorted(path / f for f in inside if not any(part.startswith(("_", ".")) for part in f.parts))
        if found:
            return found
        raise SourceError(f"source {name!r}: no Parquet file in the folder {path}")
    found = sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") else []
    if not found:
        raise SourceError(f"source {name!r}: {path} does not exist; write it, or correct the path of the source")
    return found


def _partition_columns(root: Path, files: Sequence[Path]) -> tuple[str, ...]:
    if not root.is_dir() or not files:
        return ()
    return tuple(part.partition("=")[0] for part in files[0].relative_to(root).parent.parts if "=" in part)


def _unified(name: str, schemas: Sequence[pa.Schema], partitions: Sequence[str]) -> pa.Schema:
    if len(set(schemas)) == 1:
        schema = schemas[0]
    else:
        try:
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SourceError(
                f"source {name!r}: its files disagree ({str(error).partition(chr(10))[0]}); write them alike"
            ) from None
    for column in partitions:
        schema = schema if column in schema.names else schema.append(pa.field(column, pa.null()))
    return schema


def _delta(name: str, path: Path, version: int | None) -> SourceFiles:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    if not (path / "_delta_log").is_dir():
        raise SourceError(f"source {name!r}: there is no Delta table at {path}; ingest data first, or correct the path")
    try:
        table = DeltaTable(str(path), version=version)
        paths, rows = _delta_files(table, path)
        features = table.protocol().reader_features or []
    except BaseException as error:  # the Delta library panics at some names of folders
        from asof.tables.delta import check_folder

        check_folder(path)
        if not isinstance(error, (DeltaError, OSError, ValueError)):
            raise
        at = f" at version {version}" if version is not None else ""
        reason = str(error).partition("\n")[0]
        raise SourceError(f"source {name!r}: the Delta table at {path} cannot be read{at} ({reason})") from None
    if "deletionVectors" in features:
        raise SourceError(
            f"source {name!r}: {path} has deletion vectors, which readers of its files cannot see; rewrite it without"
        )
    if version is not None and not all(Path(p).exists() for p in paths):
        raise SourceError(
            f"source {name!r}: files of version {version} of {path} were cleaned away; ask for a newer version"
        )
    partitions = tuple(table.metadata().partition_columns)
    return SourceFiles(name, paths, pa.schema(table.schema().to_arrow()), rows, partitions, table.version())


def _delta_files(table: DeltaTable, folder: Path) -> tuple[tuple[str, ...], int]:
    """Paths in the order in which they were added, and the rows in them."""
    added = pa.table(table.get_add_actions(flatten=True))
    if not added.num_rows:
        return (), 0
    times, rows = added["modification_time"].to_pylist(), added["num_records"].to_pylist()
    paths = [str(folder / unquote(path)) for path in added["path"].to_pylist()]  # the log has them percent-encoded
    ordered = sorted(zip(times, paths, strict=True))
    counted = sum(pq.read_metadata(path).num_rows if n is None else n for n, path in zip(rows, paths, strict=True))
    return tuple(path for _, path in ordered), counted
