"""Finds the files of declared sources, counts their rows and checks their columns, before any work starts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq

from asof.errors import SourceError
from asof.offline.arrow_columns import contradict, fits, is_aggregable, is_moment
from asof.offline.duckdb_engine import path_literal
from asof.quantities import counted

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from asof.contract import Source, View

_URI = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises at a file that is missing, truncated or overwritten; names of columns may be no text."""


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
        try:
            wanted, footer = set(columns), pq.read_metadata(self.paths[0])
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            chunks = [g.column(c) for g in groups for c in range(g.num_columns)]
            size: int = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in wanted)
        except UNREADABLE as error:
            raise _no_parquet(self.source, Path(self.paths[0]), error) from None
        return size * self.rows // max(int(footer.num_rows), 1)


def check_read(files: SourceFiles, found: pa.Schema, names: Mapping[str, str]) -> None:
    """Check that what was read has the types of the source: a data file may hold others than the table says.

    Args:
        files: The source.
        found: The columns that were read.
        names: Column of the source -> its name in ``found``.

    Raises:
        SourceError: A column has another type.
    """
    for raw, name in names.items():
        stored, given = files.schema.field(raw).type, found.field(name).type
        if raw not in files.partitions and contradict(stored, given):
            raise SourceError(
                f"source {files.source!r}: column {raw!r} is {stored}, but a data file holds {given}; write that file again"
            )


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


@dataclass(frozen=True, slots=True)
class Misfit:
    """A declared column that the source lacks or holds in another type.

    Attributes:
        owner: What declares it, such as "view 'spending'".
        source: Name of the source.
        path: Path of the source, as declared.
        column: The column, as spelled in the files.
        declared: What it is declared as: a type, or words such as "a timestamp".
        found: Its type in the files; None where there is no such column.
        columns: The columns of the files.
    """

    owner: str
    source: str
    path: str
    column: str
    declared: str
    found: str | None
    columns: tuple[str, ...]

    def __str__(self) -> str:
        """What is declared, what is there, and what to do."""
        if len(alike := _alike(self.column, self.columns)) > 1:
            return (
                f"{self.owner} reads column {self.column!r} of source {self.source!r}, but {self.path} has {' and '.join(alike)}, "
                "which DuckDB and Delta cannot tell apart; rename all but one"
            )
        if self.found is not None:
            return (
                f"column {self.column!r} of source {self.source!r} is {self.found}, but {self.owner} declares it as {self.declared}; "
                f"declare what {self.path} holds, or write the column anew"
            )
        close = closest(self.column, self.columns)
        hint = f"did you mean {close!r}?" if close else "name another column, or add it to the files;"
        return (
            f"{self.owner} declares {self.column!r} as {self.declared}, but source {self.source!r} has no column {self.column!r}; "
            f"{hint} {self.path} has {', '.join(self.columns)}"
        )


def _alike(name: str, columns: Sequence[str]) -> list[str]:
    """The columns whose names differ from ``name`` at most in upper and lower case."""
    return [c for c in columns if c.casefold() == name.casefold()]


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name of ``known`` that was probably meant by ``name``; upper and lower case count as equal."""
    spellings = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), spellings, n=1)
    return spellings[close[0]] if close else None


def misfits(view: View, schema: pa.Schema, wanted: Sequence[str]) -> list[Misfit]:
    """What ``schema``, the columns of the view's files, lacks or holds in another type than the ``wanted`` features need."""
    found: dict[tuple[str, str], Misfit] = {}
    for column, declared, fitting in _needed(view, wanted):
        stored = schema.field(column).type if schema.names.count(column) == 1 else None
        if stored is None or not fitting(stored) or len(_alike(column, schema.names)) > 1:
            given = None if stored is None else str(stored)
            found[column, declared if given else ""] = Misfit(
                f"view {view.name!r}", view.source.name, view.source.path, column, declared, given, tuple(schema.names)
            )
    return list(found.values())


def _needed(view: View, wanted: Sequence[str]) -> Iterator[tuple[str, str, Callable[[pa.DataType], bool]]]:
    """Each column that the features need, what it is declared as, and whether a type is that."""
    source = view.source
    for time in (source.timestamp_field, source.created_timestamp_column):
        if time:
            yield time, "a timestamp", is_moment
    for key in view.join_keys:
        yield source.column(key.column), key.dtype, partial(fits, key.dtype)
    for window in view.aggregations:
        if window.column:
            defined = partial(is_aggregable, function=window.function)
            takes = "numbers" if window.function in {"sum", "mean", "std", "var"} else "numbers, moments and texts"
            yield source.column(window.column), f"the input of {window.function}, which takes {takes}", defined
    for name in () if view.windowed else wanted:
        dtype = view.feature(name).dtype
        yield source.column(name), dtype, partial(fits, dtype)


def check_view(view: View, files: SourceFiles, wanted: Sequence[str]) -> None:
    """Check that a view's source has the columns that the ``wanted`` features need, with fitting types.

    Raises:
        SourceError: It is empty, or columns are missing or have other types; all of them are named.
    """
    if not files.rows:
        raise SourceError(
            f"source {files.source!r} of view {view.name!r} has no rows; ingest data before asking for features"
        )
    if found := misfits(view, files.schema, wanted):
        raise SourceError("; ".join(map(str, found)))


def _parquet(name: str, path: Path) -> SourceFiles:
    found = _data_files(name, path)
    schemas, rows = [], 0
    for file in found:
        try:
            footer = pq.read_metadata(file)
            schemas.append(footer.schema.to_arrow_schema())
            rows += footer.num_rows
        except UNREADABLE as error:
            raise _no_parquet(name, file, error) from None
    partitions = _partition_columns(path, found)
    schema = _unified(name, schemas, partitions)
    return SourceFiles(name, tuple(str(f) for f in found), schema, rows, partitions, None)


def _no_parquet(source: str, file: Path, error: Exception) -> SourceError:
    reason = str(error).partition("\n")[0]
    csv = file.name.lower().endswith((".csv", ".csv.gz"))
    advice = "declare a Delta table and add the rows of CSV files with `asof ingest`" if csv else "write it again"
    return SourceError(f"source {source!r}: {file} is no readable Parquet file ({reason}); {advice}")


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
    if missing := [p for p in paths if not Path(p).exists()]:
        told = (
            f"files of version {version} of {path} were cleaned away; ask for a newer version"
            if version is not None
            else f"the Delta table at {path} lacks {len(missing)} of its {counted(len(paths), 'file')}, such as {Path(missing[0]).name}; restore them from a copy"
        )
        raise SourceError(f"source {name!r}: {told}")
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
