"""``python -m benchmarks.offline.card_check FILE``: every row of a file of card transactions against window SQL.

Per customer the count and mean of amounts, per terminal the count and share of frauds among reports that take 7 days to
arrive, over 1, 7 and 30 days, as of each payment. Prints how many values were compared and how many differ.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View
from asof.offline import retrieve
from benchmarks.offline.shapes import DAY

WINDOWS = (1, 7, 30)
DELAY = 7


def main() -> None:
    """Compare, print, and fail on a difference."""
    connection, given = duckdb.connect(), Path(sys.argv[1])
    connection.execute("SET TimeZone = 'UTC'")
    with tempfile.TemporaryDirectory() as folder:
        connection.execute(
            f"COPY (SELECT *, tx_datetime + INTERVAL {DELAY} DAY AS reported_at FROM '{given}' ORDER BY transaction_id) "
            f"TO '{folder}/rows.parquet'"
        )
        asked = connection.sql(
            f"SELECT transaction_id, customer_id, terminal_id, tx_datetime AS at FROM '{folder}/rows.parquet'"
        ).to_arrow_table()
        before = time.perf_counter()
        got = retrieve(_contract(), asked, at="at", repo=Path(folder))
        seconds = time.perf_counter() - before
        expected = connection.sql(_oracle(f"{folder}/rows.parquet")).to_arrow_table()
    names = _contract().feature_names
    pairs = ((got[n].to_numpy(), expected[n].to_numpy()) for n in names)
    differ = sum(int((~np.isclose(g, e, rtol=1e-9, atol=0, equal_nan=True)).sum()) for g, e in pairs)
    print(
        f"{got.num_rows:,} rows, {len(names)} features in {seconds:.2f} s; {got.num_rows * len(names):,} values, {differ} differ"
    )
    raise SystemExit(1 if differ else 0)


def _contract() -> Contract:
    views = (
        _view("customer", "tx_datetime", "tx_amount", ("count", "mean")),
        _view("terminal", "reported_at", "tx_fraud", ("sum", "mean")),
    )
    return Contract(
        "card", "card", tuple(Feature(f.name, v.alias, f.name, f.dtype) for v in views for f in v.features), views
    )


def _view(entity: str, time_column: str, column: str, functions: tuple[str, ...]) -> View:
    windows = tuple(
        Aggregation(f"{entity}_{f}_{w}", column, f, w * DAY)  # type: ignore[arg-type]
        for w in WINDOWS
        for f in functions
    )
    key = JoinKey(f"{entity}_id", f"{entity}_id", "int32")
    source = Source(entity, "rows.parquet", "parquet", time_column)
    return View(entity, entity, (key,), tuple(Field(a.name, "float64") for a in windows), 0, source, windows)


def _oracle(path: str) -> str:
    """RANGE windows over the payments themselves: a report of w days is a payment of w days, 7 days before."""
    frames, columns = [], []
    for w in WINDOWS:
        late = f"INTERVAL {DELAY * DAY} MICROSECOND PRECEDING"
        frames.append(
            f"c{w} AS (PARTITION BY customer_id ORDER BY tx_datetime "
            f"RANGE BETWEEN INTERVAL {w * DAY - 1} MICROSECOND PRECEDING AND CURRENT ROW)"
        )
        frames.append(
            f"t{w} AS (PARTITION BY terminal_id ORDER BY tx_datetime "
            f"RANGE BETWEEN INTERVAL {(w + DELAY) * DAY - 1} MICROSECOND PRECEDING AND {late})"
        )
        columns += [
            f"count(tx_amount) OVER c{w}::DOUBLE AS customer_count_{w}",
            f"avg(tx_amount) OVER c{w} AS customer_mean_{w}",
        ]
        columns += [
            f"coalesce(sum(tx_fraud) OVER t{w}, 0)::DOUBLE AS terminal_sum_{w}",
            f"avg(tx_fraud) OVER t{w} AS terminal_mean_{w}",
        ]
    return (
        f"SELECT transaction_id, {', '.join(columns)} FROM '{path}' WINDOW {', '.join(frames)} ORDER BY transaction_id"
    )


if __name__ == "__main__":
    main()
