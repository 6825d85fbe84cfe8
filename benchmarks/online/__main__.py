"""The online store beside stock Feast's Redis store: same server, same rows, same run.

    python -m benchmarks online [--rows 100000] [--json FILE]

Every figure is the median of repeated calls in one process; stock and asof are measured in turn. The floor is the same
HMGET commands on a bare socket, answers received but not looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hiredis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View
from asof.online import Reader, Writer
from asof.online.names import layouts_key
from asof.online.redis_store import REVISION, packed
from asof.redis_server import find_server
from asof.settings import OnlineSettings

SHAPES = {"2 views x 10": (2, 10), "4 views x 50": (4, 50)}
KEYS = (1, 10, 100, 500)
WIDE_ROWS = 5_000
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Float64, Int64
from feast.value_type import ValueType
key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
views = []
for number, (name, width) in enumerate({shapes!r}):
    source = FileSource(name="s_" + name, path="{data}/" + name + ".parquet", timestamp_field="ts")
    schema = [Field(name="key", dtype=Int64)] + [Field(name=f"{{name}}_{{i}}", dtype=Float64) for i in range(width)]
    globals()[name] = FeatureView(name=name, entities=[key], ttl=timedelta(days=3650), schema=schema, source=source)
"""
STORES = {
    "stock": "provider: local\nonline_store: {{type: redis, connection_string: '{address}'}}\noffline_store: {{type: file}}\n",
    "asof": (
        "provider: asof.provider.AsofProvider\n"
        "online_store: {{type: asof.online.RedisOnlineStore, connection_string: '{address}'}}\n"
        "offline_store: {{type: asof.offline.DuckDBOfflineStore}}\nbatch_engine: {{type: asof.engine.DuckDBComputeEngine}}\n"
    ),
}
NOW = datetime.now(UTC).replace(microsecond=0)
Row = tuple[str, str, str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each view of the small shape")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["FEAST_USAGE"] = "False"
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "redis") as port:
        rows = measure(Path(folder), f"127.0.0.1:{port}", port, options.rows)
    for what, case, who, figure in rows:
        print(f"{what:34} {case:26} {who:16} {figure:14,.3f}")
    if options.json:
        options.json.write_text(
            json.dumps([dict(zip(("what", "case", "who", "figure"), r, strict=True)) for r in rows], indent=1)
        )


def measure(folder: Path, address: str, port: int, count: int) -> list[Row]:
    """All figures."""
    stores = {who: feast_store(folder / who, folder / "data", address, who) for who in STORES}
    write_data(folder / "data", count)
    rows = [row for who, store in stores.items() for row in writes(who, store, count)]
    rows += memory(port, count)
    for shape, (_, width) in SHAPES.items():
        names = [f"{name}:{name}_{i}" for name in view_names(shape) for i in range(width)]
        reader = Reader(contract_of(stores["asof"], view_names(shape)), settings(address))
        for keys in KEYS:
            rows += reads(stores, reader, names, shape, keys, min(count, WIDE_ROWS), port)
    return [*rows, *windows(address), *hops(address, port)]


def writes(who: str, store: Any, count: int) -> Iterator[Row]:
    """Materialization of the small shape, then (not counted) of the wide one."""
    start, end = NOW - timedelta(days=2), NOW + timedelta(minutes=1)
    names = view_names("2 views x 10")
    with quiet():
        began = time.perf_counter()
        store.materialize(start, end, feature_views=names)
        taken = time.perf_counter() - began
        store.materialize(start, end, feature_views=view_names("4 views x 50"))
    yield "materialize, rows/s", "2 views x 10", who, count * len(names) / taken


def memory(port: int, count: int) -> Iterator[Row]:
    """Bytes of Redis memory for a key of the small shape alone."""
    with redis.Redis(port=port) as client:
        sample = range(WIDE_ROWS, WIDE_ROWS + 200)
        ours = [client.memory_usage(f"asof/bench/key/{k}", samples=0) for k in sample]
        theirs = [client.memory_usage(k, samples=0) for k in _stock_keys(client, 200)]
    yield "Redis memory, bytes/key", "2 views x 10", "stock", statistics.mean(theirs)
    yield "Redis memory, bytes/key", "2 views x 10", "asof", statistics.mean(o for o in ours if o)


def _stock_keys(client: redis.Redis, count: int) -> list[bytes]:
    found = (k for k in client.scan_iter(count=5000) if not k.startswith(b"asof/") and client.hlen(k) == 2 * 11)
    return [key for key, _ in zip(found, range(count), strict=False)]


def reads(
    stores: dict[str, Any], reader: Reader, names: list[str], shape: str, keys: int, known: int, port: int
) -> Iterator[Row]:
    """One read of ``keys`` keys, through each door."""
    rng, at = np.random.default_rng(keys), np.full(keys, int((NOW + timedelta(hours=1)).timestamp() * 1e6))
    wanted = rng.integers(0, known, keys).tolist()
    entities = [{"key": k} for k in wanted]
    calls: dict[str, Callable[[], Any]] = {
        "floor": floor(reader, wanted, port),
        "asof reader": lambda: reader.read({"key": wanted}, at),
        "asof Feast API": lambda: stores["asof"].get_online_features(names, entities).to_dict(),
        "stock Feast API": lambda: stores["stock"].get_online_features(names, entities).to_dict(),
    }
    for who, call in calls.items():
        yield "read, ms", f"{shape}, {keys} keys", who, 1e3 * median(call)


def floor(reader: Reader, wanted: Sequence[int], port: int) -> Callable[[], None]:
    """The same commands on a bare socket: sent, and as many bytes received as they answer with."""
    asked = reader.plan.ask({"key": wanted}, len(wanted))
    reader.read({"key": wanted}, np.zeros(len(wanted), np.int64))
    command = packed([([layouts_key("bench")], [REVISION]), *reader.plan.requests(asked)])
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(command)
    parser, replies, expected = hiredis.Reader(), 0, 0
    while replies < 2 + sum(len(a.keys) for a in asked):
        received = connection.recv(1 << 20)
        expected += len(received)
        parser.feed(received)
        while parser.gets() is not False:
            replies += 1
    buffer = bytearray(1 << 20)

    def call() -> None:
        connection.sendall(command)
        received = 0
        while received < expected:
            received += connection.recv_into(buffer)

    return call


def windows(address: str) -> Iterator[Row]:
    """Reads of windowed views: 12 features over 1, 7 and 30 days, by the number of events in the largest window."""
    day, functions = 86_400_000_000, ("count", "mean", "max", "std")
    spans = tuple(Aggregation(f"{f}_{d}", "amount", f, d * day) for d in (1, 7, 30) for f in functions)  # type: ignore[arg-type]
    source = Source("sales", "sales", "parquet", "ts", None, event_id="id")
    key = JoinKey("key", "key", "int64")
    rng, end = np.random.default_rng(1), int(NOW.timestamp()) * 1_000_000
    for events in (10, 100, 1000):
        view = View(
            f"w{events}", f"w{events}", (key,), tuple(Field(a.name, "float64") for a in spans), 0, source, spans
        )
        total = events * 100
        table = pa.table({
            "key": np.repeat(np.arange(100), events), "id": np.arange(total), "amount": rng.random(total),
            "ts": pa.array(end - rng.integers(0, 30 * day, total)).cast(pa.timestamp("us", "UTC")),
        })  # fmt: skip
        writer = Writer("windows", settings(address))
        began = time.perf_counter()
        writer.write(view, table)
        yield "write events, events/s", f"{events} events a key", "asof", total / (time.perf_counter() - began)
        features = tuple(Feature(f.name, view.alias, f.name, f.dtype) for f in view.features)
        reader = Reader(Contract("windows", "all", features, (view,)), settings(address))
        for keys in (1, 100):
            call = partial(reader.read, {"key": list(range(keys))}, np.full(keys, end))
            yield "windowed read, ms", f"{keys} keys x {events} events", "asof reader", 1e3 * median(call)


def hops(address: str, port: int) -> Iterator[Row]:
    """What a hop saves where a key has 1,000 events in 30 days: bytes of a key, and reads of 100."""
    day, functions, events = 86_400_000_000, ("count", "mean", "max", "std"), 1000
    spans = tuple(Aggregation(f"{f}_{d}", "amount", f, d * day) for d in (1, 7, 30) for f in functions)  # type: ignore[arg-type]
    fields, key = tuple(Field(a.name, "float64") for a in spans), (JoinKey("key", "key", "int64"),)
    source = Source("sales", "sales", "parquet", "ts", None, event_id="id")
    rng, end, total = np.random.default_rng(1), int(NOW.timestamp()) * 1_000_000, 1000 * 100
    table = pa.table({
        "key": np.repeat(np.arange(100), events), "id": np.arange(total), "amount": rng.random(total),
        "ts": pa.array(end - rng.integers(0, 30 * day, total)).cast(pa.timestamp("us", "UTC")),
    })  # fmt: skip
    for name, hop in (("no hop", 1), ("hop of 6 hours", day // 4), ("hop of a day", day)):
        view = View("hops", "hops", key, fields, 0, source, spans, hop)
        writer, client = Writer(name, settings(address)), redis.Redis(port=port)
        writer.write(view, table)
        place = f"asof/{quote(name)}/key/"
        sizes = [client.memory_usage(f"{place}{i}", samples=0) for i in range(100)]
        yield "windowed key, bytes", f"{events} events, {name}", "asof", statistics.mean(sizes)
        features = tuple(Feature(f.name, view.alias, f.name, f.dtype) for f in view.features)
        reader = Reader(Contract(name, "all", features, (view,)), settings(address))
        for keys in (1, 100):
            call = partial(reader.read, {"key": list(range(keys))}, np.full(keys, end))
            yield "windowed read, ms", f"{keys} keys x {events} events, {name}", "asof reader", 1e3 * median(call)


def median(call: Callable[[], Any], seconds: float = 1.0) -> float:
    """Seconds that one call takes: the median over ``seconds``, at least 5 calls, after a first one that is not counted."""
    call()
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 5 or (time.perf_counter() - began < seconds and len(taken) < 1000):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def feast_store(repo: Path, data: Path, address: str, who: str) -> Any:
    """An applied Feast repo on the server."""
    from feast import FeatureStore

    (repo / "data").mkdir(parents=True)
    head = f"project: bench\nregistry: data/registry.db\nentity_key_serialization_version: 3\n{STORES[who].format(address=address)}"
    (repo / "feature_store.yaml").write_text(head)
    write_data(data, 10)
    shapes = [(name, width) for shape, (_, width) in SHAPES.items() for name in view_names(shape)]
    namespace: dict[str, Any] = {}
    exec(DEFINITIONS.format(shapes=shapes, data=data), namespace)  # noqa: S102 - the text above
    store = FeatureStore(repo_path=str(repo))
    with quiet():
        store.apply([namespace["key"], *(namespace[name] for name, _ in shapes)])
    return store


def view_names(shape: str) -> list[str]:
    """Names of the views of a shape."""
    views, width = SHAPES[shape]
    return [f"v{width}_{i}" for i in range(views)]


def write_data(folder: Path, count: int) -> None:
    """One row for each key and view; the wide views have fewer keys."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    moments = pa.array(np.full(count, int((NOW - timedelta(hours=1)).timestamp() * 1e6))).cast(
        pa.timestamp("us", "UTC")
    )
    for shape, (_, width) in SHAPES.items():
        rows = count if width == 10 else min(count, WIDE_ROWS)
        for name in view_names(shape):
            columns = {f"{name}_{i}": rng.random(rows) for i in range(width)}
            pq.write_table(
                pa.table({"key": np.arange(rows), "ts": moments[:rows], **columns}), folder / f"{name}.parquet"
            )


def contract_of(store: Any, names: Sequence[str]) -> Contract:
    """A contract for all features of some applied views."""
    from asof.compiler import compile_view

    views = tuple(compile_view(store.get_feature_view(n)) for n in names)
    features = tuple(Feature(f.name, v.alias, f.name, f.dtype) for v in views for f in v.features)
    return Contract("bench", "all", features, views)


def settings(address: str) -> OnlineSettings:
    """The same server for everybody."""
    return OnlineSettings(address, Path("unused"))


@contextlib.contextmanager
def server(folder: Path) -> Iterator[int]:
    """A redis-server on a loopback port, configured as the embedded one but without a file (stock Feast knows no sockets)."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--hash-max-ziplist-value", "2048"]
    process = subprocess.Popen([find_server(), *options, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    for _ in range(200):
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            break
        time.sleep(0.05)
    try:
        yield port
    finally:
        client.close()
        process.kill()
        process.wait()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Feast tells on standard output and error what it does."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):  # noqa: PTH123
        yield


if __name__ == "__main__":
    sys.exit(main())
