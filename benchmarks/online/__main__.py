"""The online store beside stock Feast's Redis store: same server, same rows, same run.

    python -m benchmarks online [--rows 100000] [--rounds 3] [--json FILE]

Stock and asof are measured in turn, round by round; a figure is the median of its rounds, with the least and the greatest beside it.
While reads are measured, server and client each have a core of their own where there are two. For the floors see
``benchmarks/online/floors.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import redis

from asof.console import table
from asof.online import Reader
from benchmarks.online.figures import Figure, in_turn
from benchmarks.online.floors import floors
from benchmarks.online.windowed import hops, windows
from benchmarks.online.world import (
    NOW,
    SHAPES,
    STORES,
    WIDE_ROWS,
    contract_of,
    feast_store,
    quiet,
    server,
    settings,
    view_names,
    write_data,
)

KEYS = (1, 10, 100, 500)
READ, MATERIALIZE, MEMORY = "read, ms", "materialize, rows/s", "Redis memory, bytes/key"
SIDES = ("floor", "floor, polled", "asof reader", "asof Feast API", "stock Feast API")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each view of the small shape")
    parser.add_argument("--rounds", type=int, default=3, help="how often materialization is measured")
    parser.add_argument("--json", type=Path, help="also write the figures and ratios here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["FEAST_USAGE"] = "False"
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "redis") as port:
        figures = measure(Path(folder), f"127.0.0.1:{port}", port, options.rows, options.rounds)
    print(report(figures))
    if options.json:
        payload = {"figures": [asdict(f) for f in figures], "ratios": ratios(figures)}
        options.json.write_text(json.dumps(payload, indent=1))


def measure(folder: Path, address: str, port: int, count: int, rounds: int) -> list[Figure]:
    """All figures."""
    stores = {who: feast_store(folder / who, folder / "data", address, who) for who in STORES}
    write_data(folder / "data", count)
    figures = [*writes(stores, count, rounds, port), *memory(port)]
    with apart(port):
        for shape, (_, width) in SHAPES.items():
            names = [f"{name}:{name}_{i}" for name in view_names(shape) for i in range(width)]
            reader = Reader(contract_of(stores["asof"], view_names(shape)), settings(address))
            for keys in KEYS:
                figures += reads(stores, reader, names, shape, keys, min(count, WIDE_ROWS), port)
        figures += [*windows(address), *hops(address, port)]
    return figures


def writes(stores: dict[str, Any], count: int, rounds: int, port: int) -> list[Figure]:
    """Materialization of the small shape into an empty Redis, in turn; then (not counted) of the wide one."""
    names, found = view_names("2 views x 10"), {who: list[float]() for who in stores}
    for _ in range(rounds):
        with redis.Redis(port=port) as client:
            client.flushall()
        for who, store in stores.items():
            began = time.perf_counter()
            _materialize(store, names)
            found[who].append(count * len(names) / (time.perf_counter() - began))
    for store in stores.values():
        _materialize(store, view_names("4 views x 50"))
    return [Figure.of(MATERIALIZE, "2 views x 10", who, values) for who, values in found.items()]


def _materialize(store: Any, names: list[str]) -> None:
    with quiet():
        store.materialize(NOW - timedelta(days=2), NOW + timedelta(minutes=1), feature_views=names)


def memory(port: int) -> Iterator[Figure]:
    """Bytes of Redis memory for a key of the small shape alone."""
    with redis.Redis(port=port) as client:
        ours = [client.memory_usage(f"asof/bench/key/{k}", samples=0) for k in range(WIDE_ROWS, WIDE_ROWS + 200)]
        theirs = [client.memory_usage(k, samples=0) for k in _stock_keys(client, 200)]
    for who, sizes in (("stock", theirs), ("asof", ours)):
        yield Figure.of(MEMORY, "2 views x 10", who, [float(statistics.mean(s for s in sizes if s))])


def _stock_keys(client: redis.Redis, count: int) -> list[bytes]:
    found = (k for k in client.scan_iter(count=5000) if not k.startswith(b"asof/") and client.hlen(k) == 2 * 11)
    return [key for key, _ in zip(found, range(count), strict=False)]


def reads(
    stores: dict[str, Any], reader: Reader, names: list[str], shape: str, keys: int, known: int, port: int
) -> list[Figure]:
    """One read of ``keys`` keys, through each door."""
    rng, at = np.random.default_rng(keys), np.full(keys, int((NOW + timedelta(hours=1)).timestamp() * 1e6))
    wanted = rng.integers(0, known, keys).tolist()
    entities = [{"key": k} for k in wanted]
    doors: dict[str, Callable[[], Any]] = {
        "asof reader": lambda: reader.read({"key": wanted}, at),
        "asof Feast API": lambda: stores["asof"].get_online_features(names, entities).to_dict(),
        "stock Feast API": lambda: stores["stock"].get_online_features(names, entities).to_dict(),
    }
    return in_turn(READ, f"{shape}, {keys} keys", floors(reader, wanted, port) | doors)


@contextmanager
def apart(port: int) -> Iterator[None]:
    """A core for the server and another one for us: whether they share one is otherwise up to the day, and the floor with it."""
    mine = sorted(os.sched_getaffinity(0))
    with redis.Redis(port=port) as client:
        process = int(client.info("server")["process_id"])
    if len(mine) > 1:
        os.sched_setaffinity(process, mine[:1])
        os.sched_setaffinity(0, mine[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(process, mine)
        os.sched_setaffinity(0, mine)


def ratios(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Ours beside stock's and the floors, by case; above 1 ours is faster or smaller, or the floor is lower."""
    found = {(f.what, f.case, f.who): f.figure for f in figures}
    rows: list[dict[str, Any]] = []
    for what, case in dict.fromkeys((what, case) for what, case, who in found if who == "asof reader" and what == READ):
        one = {who: found[what, case, who] for who in SIDES}
        floor, polled, reader, api, stock = one.values()
        rows.append({
            "what": what, "case": case, "reader_vs_stock": stock / reader, "api_vs_stock": stock / api,
            "reader_vs_floor": reader / floor, "reader_vs_floor_polled": reader / polled, "floor_vs_stock": stock / floor,
        })  # fmt: skip
    speed, size = ({who: found[what, "2 views x 10", who] for who in STORES} for what in (MATERIALIZE, MEMORY))
    rows.append({"what": MATERIALIZE, "case": "2 views x 10", "asof_vs_stock": speed["asof"] / speed["stock"]})
    return [*rows, {"what": MEMORY, "case": "2 views x 10", "asof_vs_stock": size["asof"] / size["stock"]}]


def report(figures: list[Figure]) -> str:
    """Everything as text: reads with their ratios, then the rest, then the spread of all."""
    found = {(f.case, f.who): f.figure for f in figures if f.what == READ}
    rows = []
    for one in (r for r in ratios(figures) if r["what"] == READ):
        factors = [f"{one[n]:.2f}x" for n in ("reader_vs_stock", "floor_vs_stock", "api_vs_stock", "reader_vs_floor")]
        rows.append((one["case"], *(found[one["case"], who] for who in SIDES), *factors))
    header = (READ, *SIDES, "reader faster", "floor faster", "API faster", "reader / floor")
    others = [
        f"{r['what']}, {r['case']}: asof / stock {r['asof_vs_stock']:.3g}" for r in ratios(figures) if r["what"] != READ
    ]
    spread = [(f.what, f.case, f.who, f.figure, f.low, f.high) for f in figures]
    return "\n\n".join(
        (table(header, rows), "\n".join(others), table(("what", "case", "who", "median", "least", "most"), spread))
    )


if __name__ == "__main__":
    main()
