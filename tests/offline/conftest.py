"""Small sources and contracts to ask about, made without Feast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View

DAY = 86_400_000_000


def moments(*days: float, unit: str = "us", zone: str | None = "UTC") -> pa.Array:
    """Days after 2020-01-01, as timestamps."""
    micros = pa.array([1_577_836_800_000_000 + round(d * DAY) for d in days], pa.int64())
    return micros.cast(pa.timestamp("us", zone)).cast(pa.timestamp(unit, zone), safe=False)


def view(
    name: str = "rows",
    *,
    features: dict[str, str],
    keys: Sequence[JoinKey] = (JoinKey("k", "k", "int64"),),
    ttl: int = 0,
    created: str | None = None,
    path: str | None = None,
    windows: Sequence[Aggregation] = (),
    **source: Any,
) -> View:
    """A view on ``<name>.parquet`` with the event time in ``ts``."""
    declared = Source(name, path or f"{name}.parquet", source.pop("format", "parquet"), "ts", created, **source)
    fields = tuple(Field(n, t) for n, t in features.items())
    return View(name, name, tuple(keys), fields, ttl, declared, tuple(windows))


def contract(*views: View) -> Contract:
    """A service of all features of the views, named as they are."""
    features = tuple(Feature(f.name, v.alias, f.name, f.dtype) for v in views for f in v.features)
    return Contract("tests", "all", features, views)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes columns to a Parquet file of the repo folder."""

    def written(name: str = "rows", /, **columns: Any) -> Path:
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return path

    return written
