"""One side of a comparison, in a process of its own: ``python -m benchmarks.offline.sides SIDE PLACE RESULT``.

Imports, opening a store and reading the entity rows into the form that the side wants are not timed; reading the views,
answering and having the answer in memory are. Prints seconds, processor seconds and peak memory as JSON; writes the answer to RESULT.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.offline.shapes import DAY, Shape, read

Answer = Callable[[], pa.Table]


def asof_engine(shape: Shape, place: Path, *, knowledge: bool = True) -> Answer:
    """Our engine, without Feast."""
    from asof.contract import Contract, Feature
    from asof.offline import retrieve

    views = tuple(_view(shape, i, knowledge=knowledge) for i in range(len(shape.tables)))
    features = tuple(Feature(f.name, v.alias, f.name, f.dtype) for v in views for f in v.features)
    contract = Contract("bench", "bench", features, views)
    asked = pq.read_table(place / "asked.parquet")
    retrieve(contract, asked.slice(0, 1), at="event_timestamp", repo=place)
    return lambda: retrieve(contract, asked, at="event_timestamp", repo=place, knowledge=knowledge)


def asof_unaware(shape: Shape, place: Path) -> Answer:
    """Our engine with knowledge time off."""
    return asof_engine(shape, place, knowledge=False)


def asof_streaming(shape: Shape, place: Path) -> Answer:
    """Our engine from file to file under a memory limit of 4 GB, spilling beside the data."""
    from asof.contract import Contract, Feature
    from asof.offline import EngineSettings, retrieve_to

    views = tuple(_view(shape, i, knowledge=True) for i in range(len(shape.tables)))
    contract = Contract(
        "bench", "bench", tuple(Feature(f.name, v.alias, f.name, f.dtype) for v in views for f in v.features), views
    )
    settings = EngineSettings(memory_limit="4GB", temp_directory="spill")

    def run() -> pa.Table:
        retrieve_to(
            place / "dataset.parquet",
            contract,
            place / "asked.parquet",
            at="event_timestamp",
            repo=place,
            settings=settings,
        )
        return pa.table({"rows": [pq.read_metadata(place / "dataset.parquet").num_rows]})

    return run


def asof_feast(shape: Shape, place: Path) -> Answer:
    """Our store behind Feast's API."""
    return _feast(shape, place, "asof.offline.DuckDBOfflineStore")


def stock_feast(shape: Shape, place: Path) -> Answer:
    """Feast's own DuckDB store."""
    return _feast(shape, place, "duckdb")


def duckdb_asof(shape: Shape, place: Path) -> Answer:
    """A query with one ASOF join per view, as one writes it by hand."""
    connection, asked = _duckdb(), pq.read_table(place / "asked.parquet")
    connection.register("asked", asked)
    columns, joins = ["asked.*"], []
    for table in shape.tables:
        fresh = f"asked.event_timestamp - {table.name}.ts <= INTERVAL {table.ttl_days} DAY"
        columns += [f"CASE WHEN {fresh} THEN {table.name}.{c} END AS {c}" for c in table.columns]
        joins.append(
            f"ASOF LEFT JOIN read_parquet('{place / table.name}.parquet') AS {table.name} "
            f"ON asked.k = {table.name}.k AND asked.event_timestamp >= {table.name}.{'kt' if table.late is not None else 'ts'}"
        )
    query = f"SELECT {', '.join(columns)} FROM asked {' '.join(joins)}"
    return lambda: connection.sql(query).to_arrow_table()


def polars_asof(shape: Shape, place: Path) -> Answer:
    """One ``join_asof`` per view."""
    import polars as pl

    asked = pl.read_parquet(place / "asked.parquet")

    def run() -> pa.Table:
        joined = asked.sort("event_timestamp").lazy()
        for table in shape.tables:
            rows = pl.scan_parquet(place / f"{table.name}.parquet").sort("ts")
            joined = joined.join_asof(
                rows,
                left_on="event_timestamp",
                right_on="ts",
                by="k",
                tolerance=f"{table.ttl_days}d",
                check_sortedness=False,
            )
        return joined.select("id", *(c for t in shape.tables for c in t.columns)).collect().to_arrow()

    return run


def duckdb_windows(shape: Shape, place: Path) -> Answer:
    """RANGE windows over the events, which are the questions too: the strongest form that SQL has for it."""
    connection, table = _duckdb(), shape.tables[0]
    value = table.columns[0]
    frames = [
        f"w{w} AS (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL {w * DAY - 1} MICROSECOND PRECEDING AND CURRENT ROW)"
        for w in shape.windows
    ]
    columns = [f"{sql}({value}) OVER w{w} AS {name}_{w}" for w in shape.windows for name, sql in _SQL.items()]
    query = f"SELECT k, ts, {', '.join(columns)} FROM '{place / table.name}.parquet' WINDOW {', '.join(frames)}"
    return lambda: connection.sql(query).to_arrow_table()


def duckdb_late_windows(shape: Shape, place: Path) -> Answer:
    """A join of every question with every event of its longest window that was known: what late events leave to SQL."""
    connection, table = _duckdb(), shape.tables[0]
    value, longest = table.columns[0], max(shape.windows)
    columns = [
        f"{sql}({value}) FILTER (a.ts > q.event_timestamp - INTERVAL {w} DAY) AS {name}_{w}"
        for w in shape.windows
        for name, sql in _SQL.items()
    ]
    query = (
        f"SELECT q.id, {', '.join(columns)} FROM '{place}/asked.parquet' q LEFT JOIN '{place / table.name}.parquet' a "
        f"ON a.k = q.k AND a.ts <= q.event_timestamp AND a.kt <= q.event_timestamp "
        f"AND a.ts > q.event_timestamp - INTERVAL {longest} DAY GROUP BY q.id"
    )
    return lambda: connection.sql(query).to_arrow_table()


def polars_rolling(shape: Shape, place: Path) -> Answer:
    """``rolling(group_by=...)``, once per window."""
    import polars as pl

    table = shape.tables[0]
    value = pl.col(table.columns[0])

    def run() -> pa.Table:
        rows = pl.read_parquet(place / f"{table.name}.parquet").sort("k", "ts")
        parts = [rows.select("k", "ts")]
        for w in shape.windows:
            aggregates = [value.count(), value.mean(), value.max(), value.std()]
            named = [a.alias(f"{n}_{w}") for a, n in zip(aggregates, _SQL, strict=True)]
            rolled = rows.rolling(index_column="ts", period=f"{w}d", group_by="k").agg(named)
            parts.append(rolled.select(pl.exclude("k", "ts")))
        return pl.concat(parts, how="horizontal").to_arrow()

    return run


def pandas_rolling(shape: Shape, place: Path) -> Answer:
    """``groupby(...).rolling(...)``, once per window."""
    import pandas as pd

    table = shape.tables[0]

    def run() -> pa.Table:
        rows = pd.read_parquet(place / f"{table.name}.parquet").sort_values(["k", "ts"], ignore_index=True)
        parts = {"k": rows["k"], "ts": rows["ts"]}
        for w in shape.windows:
            rolling = rows.groupby("k").rolling(f"{w}D", on="ts")[table.columns[0]]
            parts |= {f"{name}_{w}": getattr(rolling, name)().to_numpy() for name in _SQL}
        return pa.Table.from_pandas(pd.DataFrame(parts))

    return run


SIDES: dict[str, Callable[[Shape, Path], Answer]] = {
    f.__name__: f
    for f in (
        asof_engine, asof_unaware, asof_streaming, asof_feast, stock_feast, duckdb_asof, polars_asof, duckdb_windows, duckdb_late_windows,
        polars_rolling, pandas_rolling,
    )
}  # fmt: skip
_SQL = {"count": "count", "mean": "avg", "max": "max", "std": "stddev_samp"}


def _view(shape: Shape, number: int, *, knowledge: bool) -> Any:
    from asof.contract import Aggregation, Field, JoinKey, Source, View

    table = shape.tables[number]
    created = "kt" if table.late is not None else None
    source = Source(table.name, f"{table.name}.parquet", "parquet", "ts", created)
    windows = tuple(
        Aggregation(f"{name}_{w}", table.columns[0], name, w * DAY)  # type: ignore[arg-type]
        for w in shape.windows
        for name in _SQL
    )
    names = [a.name for a in windows] or table.columns
    fields = tuple(Field(n, "int64" if n.startswith("count") else "float64") for n in names)
    return View(table.name, table.name, (JoinKey("k", "k", "int64"),), fields, table.ttl_days * DAY, source, windows)


def _feast(shape: Shape, place: Path, kind: str) -> Answer:
    from datetime import timedelta

    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64

    repo = place / kind.rpartition(".")[2]
    repo.mkdir(exist_ok=True)
    (repo / "feature_store.yaml").write_text(
        f"project: bench\nregistry: {repo}/registry.db\nprovider: local\noffline_store: {{type: {kind}}}\n"
        f"online_store: {{type: sqlite, path: {repo}/online.db}}\nentity_key_serialization_version: 3\n"
    )
    store = FeatureStore(repo_path=str(repo))
    key = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=t.name,
            entities=[key],
            ttl=timedelta(days=t.ttl_days),
            schema=[Field(name=c, dtype=Float64) for c in t.columns],
            source=FileSource(
                name=t.name, path=str(place / f"{t.name}.parquet"), timestamp_field="ts",
                created_timestamp_column="kt" if t.late is not None else "",
            ),
        )
        for t in shape.tables
    ]  # fmt: skip
    store.apply([key, *views])
    asked = pq.read_table(place / "asked.parquet").to_pandas()
    references = [f"{t.name}:{c}" for t in shape.tables for c in t.columns]
    options = {"filter_by_created_timestamp": True} if any(t.late is not None for t in shape.tables) else {}
    return lambda: store.get_historical_features(asked, references, **options).to_arrow()


def _duckdb() -> Any:
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _peak() -> int:
    """Peak resident bytes of this process; ``getrusage`` would count what its parent had when it was forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run one side: once, or as often as its shape says."""
    side, place, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shape = read(place)
    run = SIDES[side](shape, place)
    if shape.calls > 1:
        run()
    seconds, worked = [], time.process_time()
    for _ in range(shape.calls):
        before = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - before)
    cpu, peak = (time.process_time() - worked) / shape.calls, _peak()
    pq.write_table(answer, result, compression="none")
    print(json.dumps({"seconds": statistics.median(seconds), "cpu": cpu, "peak": peak, "rows": answer.num_rows}))


if __name__ == "__main__":
    main()
