"""Reads Parquet and CSV files, and folders of them, as numbered rows; contents are checked later.

CSV comes as text, so that a cell which is not what was declared is one bad row and not the end of the file. Which texts mean a missing
value depends on the column (:meth:`Rows.with_missing`): in a column of strings ``NA`` is a text.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from asof.errors import SchemaError, SourceError, UsageError
from asof.tables import delta
from asof.tables.schema import Column

SUFFIXES = (".parquet", ".csv", ".csv.gz")
MISSING = ("", "null", "NULL", "None", "NaN", "nan", "NA", "N/A")
"""Cells of a CSV file that mean a missing value in columns of anything but strings."""


@dataclass(frozen=True)
class Rows:
    """Rows of one file.

    Attributes:
        source: Name of the file.
        table: n rows, with the wanted columns that the file has.
        numbers: int64[n], 1-based number of each row in the file (the header does not count).
        typed: Whether the file has types; CSV has none, its cells are text.
        ignored: Columns of the file that are not wanted.
        broken: Malformed rows (wrong number of cells), as (number, text).
    """

    source: str
    table: pa.Table
    numbers: np.ndarray
    typed: bool
    ignored: tuple[str, ...] = ()
    broken: tuple[tuple[int, str], ...] = ()

    @property
    def read(self) -> int:
        """Number of rows that were read, broken ones included."""
        return len(self.numbers) + len(self.broken)

    def with_missing(self, columns: Sequence[Column], marks: Sequence[str] = ()) -> Rows:
        """The rows with null where a text means a missing value; rows that have types are returned as they are.

        Args:
            columns: The table's columns. In those of strings only an empty cell is missing, and not if it is quoted; in all others
                also the texts in :data:`MISSING`.
            marks: Texts that mean a missing value in every column of this table.
        """
        if self.typed:
            return self
        table = self.table
        for column in columns:
            texts = pa.array((*marks, *(() if column.dtype == "string" else MISSING)), pa.string())
            if len(texts) and column.name in table.column_names:
                given = table[column.name]
                known = pc.if_else(pc.is_in(given, value_set=texts), pa.scalar(None, pa.string()), given)
                table = table.set_column(table.column_names.index(column.name), column.name, known)
        return replace(self, table=table)


def files(paths: Sequence[Path]) -> list[Path]:
    """The files at ``paths``; a folder stands for the Parquet and CSV files below it, sorted.

    Raises:
        SourceError: A path does not exist, or a folder has no such files.
        UsageError: A file is neither Parquet nor CSV.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += _inside(path)
        elif not path.exists():
            raise SourceError(f"{path} does not exist; expected a Parquet or CSV file, or a folder of them")
        elif not path.name.lower().endswith(SUFFIXES):
            raise UsageError(f"{path} is neither Parquet nor CSV; expected a name that ends in {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    return found


def read(path: Path, wanted: Sequence[str]) -> Rows:
    """The rows of one file.

    Args:
        path: A Parquet or CSV file.
        wanted: Columns to read; none for all.

    Raises:
        SourceError: The file is empty, truncated or not of its format.
    """
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path} is empty (0 bytes); expected a Parquet or CSV file with rows")
        return _parquet(path, wanted) if path.name.lower().endswith(".parquet") else _csv(path, wanted)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} cannot be read: {reason}; is it complete?") from error


def in_memory(table: pa.Table, wanted: Sequence[str], source: str) -> Rows:
    """The rows of a table in memory."""
    keep = _keep(table.column_names, wanted, source)
    ignored = tuple(n for n in table.column_names if n not in keep)
    return Rows(source, table.select(keep), np.arange(1, table.num_rows + 1), True, ignored)


def typed_csv(path: Path, texts: Iterable[str] = ()) -> pa.Table:
    """A CSV file with the types that its cells suggest; what is missing is decided as in the files of tables.

    Args:
        path: The file.
        texts: Columns that hold strings, whatever their cells look like.
    """
    strings = dict.fromkeys(texts, pa.string())
    table = pa_csv.read_csv(
        path, convert_options=pa_csv.ConvertOptions(column_types=strings, null_values=list(MISSING))
    )
    names = [f.name for f in table.schema if pa.types.is_string(f.type)]
    if not names:
        return table
    read = pa_csv.read_csv(path, convert_options=_as_text(names))
    for name in names:
        table = table.set_column(table.column_names.index(name), name, read[name])
    return table


def _inside(folder: Path) -> list[Path]:
    table = delta.open_table(folder) if (folder / "_delta_log").is_dir() else None
    if table is not None:
        return delta.data_files(table)
    found = sorted(
        p
        for p in folder.rglob("*")
        if p.is_file()
        and p.name.lower().endswith(SUFFIXES)
        and not any(x[0] in "._" for x in p.relative_to(folder).parts)
    )
    if not found:
        raise SourceError(f"the folder {folder} has no file that ends in {', '.join(SUFFIXES)}")
    return found


def _parquet(path: Path, wanted: Sequence[str]) -> Rows:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        keep = _keep(names, wanted, str(path))
        table = file.read(columns=keep)
    return Rows(str(path), table, np.arange(1, table.num_rows + 1), True, tuple(n for n in names if n not in keep))


def _csv(path: Path, wanted: Sequence[str]) -> Rows:
    names = _header(path)
    keep = _keep(names, wanted, str(path))
    broken: list[tuple[int, str]] = []

    def note(row: pa_csv.InvalidRow) -> str:
        broken.append((int(row.number) - 1, str(row.text)))
        return "skip"

    table = pa_csv.read_csv(
        path,
        read_options=pa_csv.ReadOptions(use_threads=False),
        parse_options=pa_csv.ParseOptions(invalid_row_handler=note, newlines_in_values=True),
        convert_options=_as_text(keep),
    )
    numbers = _numbers(table.num_rows, [number for number, _ in broken])
    return Rows(str(path), table, numbers, False, tuple(n for n in names if n not in keep), tuple(broken))


def _as_text(names: Sequence[str]) -> pa_csv.ConvertOptions:
    """Reads columns as strings; the empty cell is missing unless it is quoted."""
    return pa_csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )


def _header(path: Path) -> list[str]:
    with contextlib.ExitStack() as opened:
        raw = opened.enter_context(path.open("rb"))
        content = opened.enter_context(gzip.open(raw)) if path.suffix.lower() == ".gz" else raw
        text = opened.enter_context(io.TextIOWrapper(content, encoding="utf-8-sig", newline=""))
        return next(csv.reader(text), [])


def _keep(names: Sequence[str], wanted: Sequence[str], source: str) -> list[str]:
    keep = [n for n in wanted if n in names] if wanted else list(names)
    if twice := sorted({n for n in keep if list(names).count(n) > 1}):
        raise SchemaError(f"{source} has the columns {twice} more than once; expected each once")
    return keep


def _numbers(rows: int, skipped: Sequence[int]) -> np.ndarray:
    """Row numbers 1, 2, ... without the ``skipped`` ones."""
    every = np.arange(1, rows + len(skipped) + 1)
    return np.delete(every, np.asarray(skipped, dtype=np.int64) - 1) if skipped else every
