"""Reads Delta tables, and appends to them in one commit, one process at a time.

A Delta commit is a single file that appears at the end, so a killed writer leaves only data files that belong to no version. For
Delta, two appends never conflict, even if both looked for known ids before the other's commit. Therefore looking and
appending happen under the table's lock, a ``flock`` that ends with its process.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from asof.errors import SourceError, TableError, UsageError
from asof.repo import Repo

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from asof.tables.schema import TableDeclaration

_COMPRESSION = 4
"""Rows in memory usually take at least this many times their size on disk."""

_UNUSABLE = re.compile(r"[\[\]|^\\]|%[0-9A-Fa-f]{2}")
"""What the Delta library cannot open in the path of a folder, because it turns the path into a URL."""

PATIENCE = 600.0
"""Seconds to wait for another process that writes to the same table."""


def folder(repo: Repo, declaration: TableDeclaration) -> Path:
    """The folder of the table.

    Raises:
        UsageError: It is not a Delta table on a local disk.
        SourceError: The Delta library cannot open the folder.
    """
    path = declaration.path
    local = unquote(path.removeprefix("file://")) if path.startswith("file://") else path
    if declaration.format != "delta" or "://" in local:
        raise UsageError(
            f"table {declaration.name!r} is {declaration.format} at {declaration.path}; rows can be added to Delta tables on a local "
            "disk only: declare it with file_format=DeltaFormat() and a local path"
        )
    return check_folder(repo.path / local)


def check_folder(folder: Path) -> Path:
    """``folder``, if a Delta table can lie there.

    Raises:
        SourceError: Its path has characters that the Delta library cannot open.
    """
    if found := sorted(set(_UNUSABLE.findall(str(folder)))):
        raise SourceError(
            f"{folder}: a Delta table cannot lie below a folder with {' or '.join(found)} in its name (the Delta library cannot open it); "
            "rename the folder, or move the repo or the table"
        )
    return folder


def plain_name(name: str) -> bool:
    """Whether a folder called ``name`` can hold a Delta table."""
    return "/" not in name and name not in {".", ".."} and _UNUSABLE.search(name) is None


def open_table(path: Path, version: int | None = None) -> DeltaTable | None:
    """The Delta table at ``path``, by default its newest version; None where there is none yet.

    Raises:
        SourceError: The table is damaged, or the folder holds something else.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    if not path.is_dir() or not any(path.iterdir()):
        return None
    try:
        return DeltaTable(path, version=version)
    except TableNotFoundError:
        if (path / "_delta_log").is_dir() and any((path / "_delta_log").glob("*.json")):
            raise SourceError(f"the Delta table {path} is damaged: its log cannot be read") from None
        return None  # files of a first append that was killed before its commit
    except (DeltaError, OSError, ValueError) as error:
        raise SourceError(f"the Delta table {path} cannot be read: {_short(error)}") from error


def schema(table: DeltaTable) -> pa.Schema:
    """The Arrow schema of ``table``."""
    return pa.schema(table.schema().to_arrow())


def actions(table: DeltaTable) -> pa.Table:
    """The data files of ``table`` with sizes, row counts, and bounds of their columns, a row each."""
    return pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()


def scan(table: DeltaTable, columns: Sequence[str], key: str | None = None, among: pa.Array | None = None) -> pa.Table:
    """Columns of ``table``; with ``key``, only of rows whose ``key`` is in ``among`` (of the same type).

    Raises:
        SourceError: A data file is missing or damaged.
    """
    held, found = schema(table), []
    wanted = pa.schema([held.field(name) for name in columns])
    needed = list(dict.fromkeys([*columns, *([key] if key else [])]))
    for path in data_files(table, key, among):
        rows = _read(path, needed, held)
        if key is not None:
            rows = rows.filter(pc.is_in(rows[key], value_set=among))
        found.append(rows.select(columns))
    return pa.concat_tables(found) if found else wanted.empty_table()


def data_files(table: DeltaTable, key: str | None = None, among: pa.Array | None = None) -> list[Path]:
    """The data files; with ``key``, only those whose statistics allow a value of ``among``."""
    files_now = actions(table)
    folder = Path(unquote(urlsplit(table.table_uri).path))
    files = [folder / unquote(path) for path in files_now["path"].to_pylist()]
    names = {f"min.{key}", f"max.{key}"}
    exact = among is not None and pa.types.is_integer(among.type)  # bounds of strings may be cut short
    if among is None or not len(among) or not exact or not names <= set(files_now.column_names):
        return files
    bounds = pc.min_max(among)
    low, high = (pc.cast(files_now[f"{end}.{key}"], among.type) for end in ("min", "max"))
    outside = pc.or_(pc.greater(low, bounds["max"]), pc.less(high, bounds["min"]))
    ruled_out = pc.fill_null(outside, False).to_pylist()
    return [file for file, out in zip(files, ruled_out, strict=True) if not out]


def _read(path: Path, columns: Sequence[str], held: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            rows = file.read(columns=[name for name in columns if name in present])
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"the data file {path} cannot be read: {_short(error)}") from error
    arrays = [
        pc.cast(rows[name], held.field(name).type)
        if name in present
        else pa.nulls(rows.num_rows, held.field(name).type)
        for name in columns
    ]
    return pa.table(dict(zip(columns, arrays, strict=True)))


def append(path: Path, rows: pa.Table, notes: Mapping[str, str], held: DeltaTable | None = None) -> int:
    """Append ``rows`` in one commit, with ``notes`` in the table's history; the version that it made.

    New columns are added to the table; columns that ``rows`` lacks become null. Call it with the lock held.

    Args:
        path: The table's folder.
        rows: What to append.
        notes: What its history is to say of it.
        held: The table, where it was opened after the lock was taken; then its log need not be read again.

    Raises:
        TableError: Nothing was appended (disk full, no permission, another schema).
    """
    from deltalake import CommitProperties, DeltaTable, write_deltalake
    from deltalake.exceptions import DeltaError

    table = held or open_table(path)
    if table is not None and table.metadata().partition_columns:
        raise TableError(f"{path} is partitioned; asof adds rows to tables without partitions only")
    fitted = rows if table is None else _fitted(rows, schema(table))
    _check_space(path, fitted.nbytes // _COMPRESSION)
    before = set(path.glob("*.parquet"))
    merge = table is not None and set(fitted.column_names) != set(schema(table).names)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_deltalake(
            table or path,
            fitted,
            mode="append",
            schema_mode="merge" if merge else None,
            commit_properties=CommitProperties(dict(notes)),
        )
        return (table or DeltaTable(path)).version()
    except (DeltaError, OSError, pa.ArrowException, ValueError) as error:
        _sweep(path, before)
        raise TableError(
            f"nothing was added to {path}: {_short(error)}; free space or fix permissions, then run it again"
        ) from error


@contextmanager
def locked(path: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of the table at ``path``, across processes and threads.

    Raises:
        TableError: Another process held the lock for ``patience`` seconds, or the lock file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        raise TableError(f"cannot lock the table {path}: {_short(error)}") from error
    with handle:
        deadline = time.monotonic() + patience
        while not _try_lock(handle.fileno()):
            if time.monotonic() > deadline:
                raise TableError(
                    f"another process has been writing to {path} for {patience:.0f} s; try again when it is done"
                )
            time.sleep(0.02)
        yield


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_space(path: Path, needed: int) -> None:
    """Raise before anything is written if the disk has clearly too little space."""
    free = shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free
    if free < needed:
        raise TableError(
            f"nothing was added to {path}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free"
        )


def _fitted(rows: pa.Table, held: pa.Schema) -> pa.Table:
    """``rows`` with the types that the table holds."""
    for i, name in enumerate(rows.column_names):
        index = held.get_field_index(name)
        if index >= 0 and held.field(index).type != rows.field(i).type:
            rows = rows.set_column(i, name, pc.cast(rows[name], held.field(index).type))
    return rows


def _sweep(path: Path, before: set[Path]) -> None:
    """Remove the data files of an append that failed, unless they were committed after all."""
    try:
        table = open_table(path)
        kept = {file.name for file in data_files(table)} if table is not None else set()
        for leftover in set(path.glob("*.parquet")) - before:
            if leftover.name not in kept:
                leftover.unlink(missing_ok=True)
    except (OSError, SourceError):
        return


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
