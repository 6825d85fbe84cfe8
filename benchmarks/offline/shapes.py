"""The shapes of data that the offline store is measured on, and the files they are made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAY = 86_400_000_000
START = 1_704_067_200_000_000
"""2024-01-01 in microseconds."""
ROW_GROUP = 122_880


@dataclass(frozen=True)
class Table:
    """A view's rows: how many, over how many keys and days, with how many float features; ``late`` is the share known late."""

    name: str
    rows: int
    keys: int
    features: int
    ttl_days: int
    days: int = 180
    hot: float = 0.0
    late: float | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the features."""
        return [f"{self.name}_f{i}" for i in range(self.features)]


@dataclass(frozen=True)
class Shape:
    """Entity rows and the views that they ask. ``windows`` shapes ask every row's own key and time, over windows of days.

    ``calls`` above 1 measures a process that has done it all before: the median of that many calls after the first.
    """

    name: str
    asked: int
    tables: tuple[Table, ...]
    windows: tuple[int, ...] = ()
    calls: int = 1

    def scaled(self, factor: float) -> Shape:
        """The same shape with fewer or more rows; rows per key stay."""
        tables = tuple(replace(t, rows=int(t.rows * factor), keys=max(int(t.keys * factor), 1)) for t in self.tables)
        return replace(self, asked=max(int(self.asked * factor), 1), tables=tables)


SHAPES = {
    s.name: s
    for s in (
        Shape("easy", 1_000_000, (Table("a", 3_000_000, 100_000, 4, 30), Table("b", 1_000_000, 100_000, 4, 30))),
        Shape("skewed", 300_000, (Table("a", 3_000_000, 10_000, 4, 90, days=90),)),
        Shape("hot", 1_000_000, (Table("a", 3_000_000, 100_000, 4, 30, hot=0.1),)),
        Shape("hot_small", 30_000, (Table("a", 90_000, 3_000, 4, 30, hot=0.1),)),
        Shape("narrow", 1_000_000, (Table("a", 3_000_000, 100_000, 1, 30),)),
        Shape("wide", 100_000, (Table("a", 300_000, 10_000, 200, 30),)),
        Shape("small", 100, (Table("a", 3_000_000, 100_000, 4, 30),)),
        Shape("warm", 100, (Table("a", 3_000_000, 100_000, 4, 30),), calls=20),
        Shape("warm_small", 100, (Table("a", 10_000, 1_000, 4, 30),), calls=100),
        Shape("late", 1_000_000, (Table("a", 3_000_000, 100_000, 4, 30, late=0.1),)),
        Shape("huge", 10_000_000, (Table("a", 100_000_000, 1_000_000, 2, 30),)),
        Shape("windows", 1_750_000, (Table("a", 1_750_000, 5_000, 1, 0),), windows=(1, 7, 30)),
        Shape("late_windows", 1_750_000, (Table("a", 1_750_000, 5_000, 1, 0, late=0.1),), windows=(1, 7, 30)),
    )
}


def write(shape: Shape, folder: Path) -> Path:
    """The files of ``shape`` below ``folder``; made once, by a fixed seed."""
    place = folder / f"{shape.name}-{shape.asked}"
    described = json.dumps(asdict(shape))
    if (place / "shape.json").is_file() and (place / "shape.json").read_text() == described:
        return place
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20)
    for table in shape.tables:
        rows = _rows(rng, table)
        pq.write_table(rows, place / f"{table.name}.parquet", row_group_size=ROW_GROUP)
    _write_asked(rng, shape, rows, place)
    (place / "shape.json").write_text(described)
    return place


def read(place: Path) -> Shape:
    """The shape whose files are in ``place``."""
    payload = json.loads((place / "shape.json").read_text())
    tables = tuple(Table(**t) for t in payload["tables"])
    return Shape(payload["name"], payload["asked"], tables, tuple(payload["windows"]), payload["calls"])


def _rows(rng: np.random.Generator, table: Table) -> pa.Table:
    """Rows in order of time, as an event table has them; milliseconds apart, so that none share a moment of a key."""
    key = rng.integers(0, table.keys, table.rows)
    key[rng.random(table.rows) < table.hot] = 0
    ts = np.sort(rng.integers(0, table.days * DAY, table.rows)) + START
    columns = {"k": key, "ts": _moments(ts)}
    if table.late is not None:
        late = rng.random(table.rows) < table.late
        columns["kt"] = _moments(ts + np.where(late, rng.integers(0, 5 * DAY, table.rows), 0))
    return pa.table(columns | {name: np.round(rng.gamma(2, 30, table.rows), 2) for name in table.columns})


def _write_asked(rng: np.random.Generator, shape: Shape, rows: pa.Table, place: Path) -> None:
    if shape.windows:
        asked = pa.table({"k": rows["k"], "event_timestamp": rows["ts"]})
    else:
        table = shape.tables[0]
        key = rng.integers(0, table.keys, shape.asked)
        key[rng.random(shape.asked) < table.hot] = 0
        moments = rng.integers(table.days * DAY // 10, table.days * DAY, shape.asked) + START
        asked = pa.table({"k": key, "event_timestamp": _moments(moments)})
    asked = asked.append_column("id", pa.array(np.arange(asked.num_rows)))
    pq.write_table(asked, place / "asked.parquet", row_group_size=ROW_GROUP)


def _moments(micros: np.ndarray) -> pa.Array:
    return pa.array(micros).cast(pa.timestamp("us", "UTC"))
