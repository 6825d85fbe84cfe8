"""What windows over events cost without their arithmetic: ``python -m benchmarks.offline.floor``.

The views' rows are read, rows and questions are brought into order of key, as many columns as there are features are brought back into
the order that was asked, and made Arrow arrays: by the fastest means that Python has for it, on two threads. No answer that keeps the
order of its questions can take less, so this bounds how many times faster than a peer it can be.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from asof.windows.sorting import stable_order
from benchmarks.offline.shapes import SHAPES, write

THREADS = 2
FEATURES = 12


def run(place: Path, asked: pa.Table, pool: ThreadPoolExecutor) -> list[pa.Array]:
    """Everything but the arithmetic: the values by key stand for every feature."""
    rows = pl.read_parquet(place / "a.parquet", columns=["k", "ts", "a_f0"])
    q_key, t = (asked[name].cast(pa.int64()).to_numpy() for name in ("k", "event_timestamp"))
    by_key, order = pool.map(stable_order, (rows["k"].to_numpy(), q_key))
    _, values, _ = pool.map(
        np.take, (rows["ts"].to_physical().to_numpy(), rows["a_f0"].to_numpy(), t), (by_key, by_key, order)
    )
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.arange(len(order))

    def column(_: int) -> pa.Array:
        found: NDArray[np.float64] = np.take(values, place_of, out=np.empty(len(place_of)), mode="clip")
        return pa.array(found, mask=np.isnan(found))

    return list(pool.map(column, range(FEATURES)))


def main() -> None:
    """Print the best of some runs."""
    place = write(SHAPES["windows"], Path(tempfile.gettempdir()) / "asof-bench")
    asked = pq.read_table(place / "asked.parquet")
    seconds, cpu = [], []
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        for _ in range(7):
            before, worked = time.perf_counter(), time.process_time()
            run(place, asked, pool)
            seconds.append(time.perf_counter() - before)
            cpu.append(time.process_time() - worked)
    print(f"seconds {min(seconds):.3f}, processor seconds {min(cpu):.3f}; first run {seconds[0]:.3f}, {cpu[0]:.3f}")


if __name__ == "__main__":
    main()
