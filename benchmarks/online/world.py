"""The world of the benchmark: two Feast repos on one redis-server, stock's and asof's, over the same files."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from asof.contract import Contract, Feature
from asof.online.redis.server import find_server
from asof.settings import OnlineSettings

SHAPES = {"2 views x 10": (2, 10), "4 views x 50": (4, 50)}
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
    from asof.feast.compiler import compile_view

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
