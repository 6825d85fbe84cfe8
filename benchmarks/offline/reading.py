"""``python -m benchmarks.offline.reading``: what it costs to read plain columns of a Parquet file, by each of the readers that asof uses.

Three million rows: a key, a time and four features, all of them into Arrow or polars columns. The best of ten turns each.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, KEYS, TURNS = 3_000_000, 100_000, 10


def main() -> None:
    """Measure and print."""
    random = np.random.default_rng(0)
    columns = {
        "key": random.integers(0, KEYS, ROWS),
        "ts": pa.array(np.sort(random.integers(0, 10**15, ROWS)), pa.timestamp("us", "UTC")),
        **{f"feature_{i}": random.normal(size=ROWS) for i in range(4)},
    }
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        file = Path(folder) / "rows.parquet"
        pq.write_table(pa.table(columns), file)
        readers: dict[str, Callable[[], object]] = {
            "polars": lambda: pl.read_parquet(file),
            "pyarrow": lambda: pq.read_table(file),
            "DuckDB": lambda: connection.sql(f"select * from '{file}'").to_arrow_table(),
        }
        for name, read in readers.items():
            wall, processor = zip(*(_seconds(read) for _ in range(TURNS)), strict=True)
            print(f"{name:8} {min(wall):.3f} s, {min(processor):.3f} processor seconds")


def _seconds(read: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    read()
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
