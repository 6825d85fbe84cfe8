"""What the columns of a file of events probably are: which identifies a row, which are keys, moments, the label, numbers.

A guess is made from the names, the types and the first rows of the file. What no file can say (how long after an event its label is
known) is not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asof.errors import AsofError, SourceError
from asof.tables import reading
from asof.tables.conversion import declared_name

if TYPE_CHECKING:
    import polars as pl

SAMPLE = 200_000
"""Most rows that are read."""

_EVENT_NAMES = ("event_timestamp", "event_time", "timestamp", "datetime", "time", "ts")
_KNOWN_NAMES = re.compile(r"(known|created|recorded|ingested|loaded|available|received)(_(at|time|timestamp|on))?")
_KEY_NAMES = re.compile(r".+_(id|key|no|nr|number|code)|.*[a-z](Id|ID|Key)")
_LABEL_NAMES = re.compile(r"(label|target|y|outcome|is_.+|.+_(label|flag))")
_BINARY = frozenset({0, 1})


@dataclass(frozen=True)
class SampleColumn:
    """What the first rows say about a column.

    Attributes:
        name: Its name.
        dtype: The type that a table declares for it.
        distinct: Number of different values.
        nulls: Number of missing values.
        binary: Whether its values are 0 and 1, or false and true, both of them.
    """

    name: str
    dtype: str
    distinct: int
    nulls: int
    binary: bool

    @property
    def moment(self) -> bool:
        """Whether it holds moments."""
        return self.dtype == "timestamp"

    @property
    def number(self) -> bool:
        """Whether it holds numbers."""
        return self.dtype.startswith(("int", "float"))


@dataclass(frozen=True)
class SampleRows:
    """The first rows of a file.

    Attributes:
        frame: The rows; columns that a table cannot hold are not in it.
        columns: What is known of each column, by name.
        left_out: Columns that cannot be used -> why.
    """

    frame: pl.DataFrame
    columns: dict[str, SampleColumn]
    left_out: dict[str, str]

    @classmethod
    def of(cls, path: Path) -> SampleRows:
        """The first rows of a Parquet or CSV file.

        Raises:
            SourceError: The file is missing, has no rows, or cannot be read.
            UsageError: It is neither Parquet nor CSV.
        """
        import polars as pl

        frame = _read(path)
        if frame.is_empty():
            raise SourceError(f"{path} has no rows; expected a file of events, one in each row")
        types = {field.name: declared_name(field.type) for field in frame.head(0).to_arrow().schema}
        left_out = {name: f"a table holds no {frame.schema[name]}" for name, dtype in types.items() if dtype is None}
        kept = {name: dtype for name, dtype in types.items() if name not in left_out and dtype is not None}
        columns = {name: _column(frame[name], dtype) for name, dtype in kept.items()}
        moments = [pl.col(c.name).cast(pl.Datetime("us", _zone(frame[c.name]))) for c in columns.values() if c.moment]
        return cls(frame.select(list(columns)).with_columns(moments), columns, left_out)

    def id(self) -> str | None:
        """The column that identifies a row: different in every row, neither a moment nor a fraction."""
        found = [
            c for c in self.columns.values()
            if c.distinct == self.frame.height and not c.nulls and not c.moment and not c.dtype.startswith(("float", "bool", "list"))
        ]  # fmt: skip
        return min(found, key=lambda c: not _KEY_NAMES.fullmatch(c.name)).name if found else None

    def event_time(self) -> str | None:
        """The column of the events' moments: one with a usual name, else the earliest."""
        moments = [c for c in self.columns.values() if c.moment and not c.nulls]
        for name in _EVENT_NAMES:
            if any(c.name == name for c in moments):
                return name
        happened = [c for c in moments if not _KNOWN_NAMES.fullmatch(c.name)] or moments
        return min(happened, key=lambda c: self._mean(c.name)).name if happened else None

    def known_at(self, event_time: str) -> str | None:
        """The column that says when a row became known: it has a usual name, and is later than the event in every row."""
        return next(
            (
                c.name
                for c in self.columns.values()
                if c.moment
                and not c.nulls
                and _KNOWN_NAMES.fullmatch(c.name)
                and self._always_later(c.name, event_time)
            ),
            None,
        )

    def keys(self, without: Iterable[str | None]) -> tuple[str, ...]:
        """Columns of entities: named like keys, or else whole numbers or text that repeat most rarely."""
        taken = set(without)
        able = [
            c for c in self.columns.values()
            if c.name not in taken and not c.moment and not c.binary and not c.dtype.startswith(("float", "bool", "list"))
        ]  # fmt: skip
        named = tuple(c.name for c in able if _KEY_NAMES.fullmatch(c.name))
        repeating = [c for c in able if 1 < c.distinct <= self.frame.height / 2]
        return named or ((max(repeating, key=lambda c: c.distinct).name,) if repeating else ())

    def label(self, without: Iterable[str | None]) -> str | None:
        """The column of labels: the only one of zeros and ones, or the only one of them that is named like a label."""
        taken = set(without)
        able = [c.name for c in self.columns.values() if c.binary and c.name not in taken]
        named = [name for name in able if _LABEL_NAMES.fullmatch(name)]
        return (named or able)[0] if 1 in (len(able), len(named)) else None

    def label_time(self, event_time: str, without: Iterable[str | None]) -> str | None:
        """The moment from which the label is known: the only other column of moments that are never before the event."""
        taken = {event_time, *without}
        able = [
            c.name
            for c in self.columns.values()
            if c.moment and not c.nulls and c.name not in taken and self._never_before(c.name, event_time)
        ]
        return able[0] if len(able) == 1 else None

    def numbers(self, without: Iterable[str | None]) -> tuple[str, ...]:
        """Columns of numbers."""
        taken = set(without)
        return tuple(c.name for c in self.columns.values() if c.number and c.name not in taken)

    def span(self, event_time: str) -> timedelta:
        """Time between the first and the last event."""
        moments: Any = self.frame[event_time]
        return timedelta(seconds=(moments.max() - moments.min()).total_seconds())

    def _mean(self, name: str) -> float:
        return float(self.frame[name].to_physical().mean() or 0)  # type: ignore[arg-type]

    def _always_later(self, name: str, than: str) -> bool:
        return bool((self._micros(name) > self._micros(than)).all())

    def _never_before(self, name: str, than: str) -> bool:
        return bool((self._micros(name) >= self._micros(than)).all())

    def _micros(self, name: str) -> pl.Series:
        return self.frame[name].to_physical()


def _read(path: Path) -> pl.DataFrame:
    import polars as pl

    (file, *others) = reading.files([path])
    if others or path.is_dir():
        raise SourceError(f"got the folder {path}, expected one Parquet or CSV file of events")
    try:
        if file.name.lower().endswith(".parquet"):
            return pl.read_parquet(file, n_rows=SAMPLE)
        frame = pl.read_csv(
            file, n_rows=SAMPLE, try_parse_dates=True, infer_schema_length=None, null_values=list(reading.MISSING)
        )
        texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
        if not texts:
            return frame
        # What means a missing number is a text in a column of texts.
        return frame.with_columns(pl.read_csv(file, columns=texts, n_rows=SAMPLE, infer_schema=False))
    except AsofError:
        raise
    except Exception as error:
        raise SourceError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}; is it complete?") from error


def _zone(values: pl.Series) -> str | None:
    return getattr(values.dtype, "time_zone", None)


def _column(values: pl.Series, dtype: str) -> SampleColumn:
    present = values.drop_nulls()
    distinct = present.n_unique()
    whole = dtype.startswith(("int", "bool"))
    binary = whole and distinct == len(_BINARY) and set(present.unique().to_list()) == _BINARY
    kept = "int64" if dtype.startswith("int") else "float64" if dtype.startswith("float") else dtype
    return SampleColumn(values.name, kept, distinct, len(values) - len(present), binary)


def stem(key: str, among: Sequence[str]) -> str:
    """The name of the entity of a key column: without ``_id`` and the like, unless two keys would share it."""
    short = {k: re.sub(r"_(id|key|no|nr|number|code)$|(?<=[a-z])(Id|ID|Key)$", "", k).lower() for k in among}
    return short[key] if list(short.values()).count(short[key]) == 1 else key.lower()
