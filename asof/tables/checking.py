"""Checks rows against a table's declaration: separates good rows from bad ones, and gives each bad row a reason.

A file as a whole is refused when its columns or types do not fit; a row is set aside, with the first thing that is wrong with it, when
only the row is wrong. Times are microseconds, UTC.
"""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asof.errors import SchemaError
from asof.instants import format_span
from asof.tables.conversion import convert, declared_name
from asof.tables.reading import Rows
from asof.tables.schema import LISTS, Column, TableDeclaration

BROKEN = "not a row: wrong number of cells"

_OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class BadRow:
    """A row that does not fit: its source, number, reason and content (JSON, or the text of a malformed row)."""

    source: str
    number: int
    reason: str
    content: str


@dataclass(frozen=True)
class Checked:
    """The checked rows of one file.

    Attributes:
        good: The rows that fit, in file order, with exactly the table's columns and types.
        bad: The rows that do not fit, in file order.
        ignored: Columns of the file that the table does not have.
    """

    good: pa.Table
    bad: tuple[BadRow, ...]
    ignored: tuple[str, ...]

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> number of rows."""
        return dict(Counter(row.reason for row in self.bad))


@dataclass
class _Verdict:
    """The first reason found for each of n rows."""

    rows: int
    reasons: list[str] = field(default_factory=list)
    codes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.codes = np.zeros(self.rows, dtype=np.int32)

    def flag(self, mask: np.ndarray, reason: str) -> None:
        """Set ``reason`` for the rows in ``mask`` that have none yet."""
        fresh = mask & (self.codes == 0)
        if fresh.any():
            self.reasons.append(reason)
            self.codes[fresh] = len(self.reasons)


def layout(declaration: TableDeclaration, existing: pa.Schema | None, first: Rows) -> tuple[Column, ...]:
    """The table's columns: as declared; if nothing is declared, as in the table, or else as in the first file.

    Raises:
        SchemaError: Nothing is declared and the file says too little, the declaration contradicts the table, or two columns of
            the file differ only in case.
    """
    if declaration.columns:
        if found := disagreements(declaration, existing):
            raise SchemaError(f"source {declaration.name!r} {'; '.join(found)}")
        return declaration.columns
    schema = existing if existing is not None else first.table.schema
    if existing is None and not first.typed:
        raise SchemaError(
            f"source {declaration.name!r} declares no asof.column tags and {first.source} has no types; declare the columns or ingest Parquet first"
        )
    types = {f.name: declared_name(f.type) for f in schema}
    # Rows are looked up by id and join keys, which a list cannot be.
    if strange := [n for n, t in types.items() if t is None or (n in declaration.required and t in LISTS)]:
        named = ", ".join(f"{name} ({schema.field(name).type})" for name in strange)
        raise SchemaError(f"{first.source} has columns of types that a table cannot hold: {named}")
    if alike := sorted(n for n, times in Counter(map(str.casefold, schema.names)).items() if times > 1):
        twins = " and ".join(n for n in schema.names if n.casefold() == alike[0])
        raise SchemaError(
            f"{first.source} has the columns {twins}, which a Delta table cannot tell apart; rename all but one"
        )
    names = declaration.order(schema.names) if existing is None else schema.names
    return tuple(Column(name, types[name] or "") for name in names)


def check(rows: Rows, declaration: TableDeclaration, columns: Sequence[Column], now: int) -> Checked:
    """Separate the rows that fit from those that do not.

    Args:
        rows: Rows of one file.
        declaration: The table's declaration.
        columns: The table's columns, from :func:`layout`.
        now: The wall clock.

    Raises:
        SchemaError: The file lacks a column, or a column has a type that does not fit.
    """
    _check_columns(rows, declaration, columns)
    verdict = _Verdict(rows.table.num_rows)
    values: dict[str, pa.Array] = {}
    for column in columns:
        if column.name in rows.table.column_names:
            array, wrong = convert(column, rows.table[column.name], rows.source, text=not rows.typed)
            verdict.flag(wrong, f"{column.name}: {_unreadable(column)}")
            values[column.name] = array
    given = set(values)
    for column in columns:
        _fill(column.name, declaration, values, rows.table.num_rows, now)
    for column in columns:
        _check_values(column, values[column.name], declaration, verdict)
        if column.moment and column.name in given:
            _check_clock(column, values[column.name], now + declaration.tolerance, declaration.tolerance, verdict)
    return _told_apart(rows, pa.table({c.name: values[c.name] for c in columns}), verdict)


def disagreements(declaration: TableDeclaration, existing: pa.Schema | None) -> list[str]:
    """The declared columns that the table holds in another type, a line each."""
    held = {f.name: f.type for f in existing or ()}
    return [
        f"declares {c.name!r} as {c.dtype}, but the table holds {held[c.name]}; "
        "declare it as before or start a new table under another path"
        for c in declaration.columns
        if c.name in held and declared_name(held[c.name]) != c.dtype
    ]


def _check_columns(rows: Rows, declaration: TableDeclaration, columns: Sequence[Column]) -> None:
    present = set(rows.table.column_names)
    optional = {*declaration.derivations, declaration.knowledge_field}
    if missing := [c.name for c in columns if c.name not in present and c.name not in optional]:
        raise SchemaError(
            f"{rows.source} lacks the columns {missing} of table {declaration.name!r}; it has {list(dict.fromkeys([*rows.table.column_names, *rows.ignored]))}"
        )


def _fill(name: str, declaration: TableDeclaration, values: dict[str, pa.Array], rows: int, now: int) -> None:
    """Derive missing values of the column ``name``; knowledge time without a declared rule is the event time."""
    derivation = declaration.derivations.get(name)
    if derivation is None and name in values:
        return
    source = derivation.source if derivation else declaration.timestamp_field
    if name in values and not values[name].null_count:
        return
    if not source:
        moment = pa.scalar(now, pa.int64()).cast(pa.timestamp("us", "UTC"))
        values[name] = pc.fill_null(values[name], moment) if name in values else pa.repeat(moment, rows)
        return
    if source not in values:
        _fill(source, declaration, values, rows, now)
    micros = pc.add(pc.cast(values[source], pa.int64()), derivation.shift if derivation else 0)
    derived = pc.cast(micros, values[source].type)
    values[name] = pc.coalesce(values[name], derived) if name in values else derived


def _check_values(column: Column, array: pa.Array, declaration: TableDeclaration, verdict: _Verdict) -> None:
    valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    if column.required or column.name in declaration.required:
        verdict.flag(~valid, f"{column.name}: null")
    if column.bounds:
        numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
        for sign, bound in column.bounds:
            verdict.flag(valid & ~_OPERATORS[sign](numbers, bound), f"{column.name}: not {sign} {bound:g}")
    if column.choices:
        chosen = pc.is_in(array, value_set=pa.array(column.choices, pa.string())).to_numpy(zero_copy_only=False)
        verdict.flag(valid & ~chosen.astype(bool), f"{column.name}: not one of {', '.join(column.choices)}")


def _check_clock(column: Column, array: pa.Array, latest: int, tolerance: int, verdict: _Verdict) -> None:
    ahead = pc.fill_null(pc.greater(pc.cast(array, pa.int64()), latest), False)
    mask = np.asarray(ahead.to_numpy(zero_copy_only=False), dtype=bool)
    verdict.flag(mask, f"{column.name}: more than {format_span(tolerance)} in the future")


def _unreadable(column: Column) -> str:
    return f"not {'a' if column.dtype[0] not in 'aeiou' else 'an'} {column.dtype}{' with a time zone' if column.zoned else ''}"


def _told_apart(rows: Rows, table: pa.Table, verdict: _Verdict) -> Checked:
    bad = np.flatnonzero(verdict.codes)
    good = table.filter(pa.array(verdict.codes == 0)) if len(bad) else table
    given = rows.table.take(pa.array(bad)).to_pylist() if len(bad) else []
    found = [
        BadRow(rows.source, int(rows.numbers[i]), verdict.reasons[verdict.codes[i] - 1], json.dumps(row, default=str))
        for i, row in zip(bad, given, strict=True)
    ]
    found += [BadRow(rows.source, number, BROKEN, text) for number, text in rows.broken]
    return Checked(good, tuple(sorted(found, key=lambda row: row.number)), rows.ignored)
