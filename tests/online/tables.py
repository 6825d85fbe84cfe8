"""Small views and tables for tests of the online store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View

T = 1_700_000_000_000_000
SECOND = 1_000_000
DAY = 86_400 * SECOND
SOURCE = Source("events", "events", "parquet", "ts", "kt", event_id="id")
KEY = JoinKey("key", "key", "int64")


def plain(*fields: tuple[str, str], name: str = "profile", ttl: int = 0, keys: tuple[JoinKey, ...] = (KEY,)) -> View:
    """A plain view with these (feature, type) pairs."""
    return View(name, name, keys, tuple(Field(n, t) for n, t in fields), ttl, SOURCE)


def windowed(
    *windows: tuple[str, str, Any], name: str = "spending", event_id: str | None = "id", dtype: str = "float64"
) -> View:
    """A windowed view with these (feature, column, function) triples over a day."""
    source = Source("events", "events", "parquet", "ts", "kt", event_id=event_id)
    aggregations = tuple(Aggregation(n, column, function, DAY) for n, column, function in windows)
    return View(name, name, (KEY,), tuple(Field(n, dtype) for n, _, _ in windows), 0, source, aggregations)


def contract(*views: View) -> Contract:
    """A contract for all features of these views."""
    features = tuple(Feature(f"{v.alias}_{f.name}", v.alias, f.name, f.dtype) for v in views for f in v.features)
    return Contract("tests", "all", features, views)


def rows(columns: dict[str, Any], ts: Sequence[int] | int = T, kt: Sequence[int | None] | None = None) -> pa.Table:
    """A table with event times (microseconds), knowledge times (the event times unless given) and ids."""
    count = len(next(iter(columns.values())))
    moments = [ts] * count if isinstance(ts, int) else list(ts)
    known = moments if kt is None else list(kt)
    kind = pa.timestamp("us", "UTC")
    return pa.table({
        "id": pa.array(range(count), pa.int64()), "ts": pa.array(moments, pa.int64()).cast(kind),
        "kt": pa.array(known, pa.int64()).cast(kind), **columns,
    })  # fmt: skip


def at(count: int, moment: int = T + SECOND) -> NDArray[np.int64]:
    """The same moment for every row."""
    return np.full(count, moment, np.int64)
