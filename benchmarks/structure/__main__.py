"""``python -m benchmarks structure``: the size and shape of the code, and the files that three walks through it pass.

A walk is counted while it happens: one training row, one read of one key and one pushed event run in a small repo under a profiler,
and each file of ``asof/`` in which a function was called is a file that a reader has to open. Everything has run once before, so
that what is only done at the start (settings, connections, caches) does not count.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("asof", "training", "serving", "monitoring")
THIN = 60
"""Lines under which a module with a single importer needs a reason."""
VALUES = {"plain": 2.0, "window": 1.5}
START = datetime(2024, 1, 1, tzinfo=UTC)

STORE = """\
project: walks
registry: data/registry.db
provider: asof.provider.AsofProvider
offline_store: {type: asof.offline.DuckDBOfflineStore}
online_store: {type: asof.online.RedisOnlineStore, connection_string: embedded}
batch_engine: {type: asof.engine.DuckDBComputeEngine}
entity_key_serialization_version: 3
"""
DEFINITIONS = '''\
"""Two views of sensors: the newest calibration, and a window over readings."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat
from feast.types import Float64, Int64
from feast.value_type import ValueType


def source(name):
    return FileSource(
        name=name, path=f"data/tables/{name}", timestamp_field="at", created_timestamp_column="known", file_format=DeltaFormat(),
        tags={"asof.id": "id", "asof.column.id": "int64", "asof.column.sensor": "int64", "asof.column.value": "float64",
              "asof.column.at": "timestamp", "asof.column.known": "timestamp", "asof.derive.known": "at + 1 microsecond"},
    )


sensor = Entity(name="sensor", join_keys=["sensor"], value_type=ValueType.INT64)
calibration = FeatureView(
    name="calibration", entities=[sensor], ttl=timedelta(days=90), source=PushSource(name="cal_push", batch_source=source("cal")),
    schema=[Field(name="sensor", dtype=Int64), Field(name="value", dtype=Float64)],
)
load = StreamFeatureView(
    name="load", entities=[sensor], timestamp_field="at", source=PushSource(name="readings_push", batch_source=source("readings")),
    schema=[Field(name="sensor", dtype=Int64), Field(name="mean_day", dtype=Float64)],
    aggregations=[Aggregation(column="value", function="mean", time_window=timedelta(days=1), name="mean_day")],
)
plain = FeatureService(name="plain", features=[calibration])
window = FeatureService(name="window", features=[load])
'''


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks structure", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    found = {**sizes(), **walks()}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        shown = f"{len(value)}: {', '.join(map(str, value))}" if isinstance(value, list) else value
        print(f"{name:34} {shown}")


def sizes() -> dict[str, Any]:
    """Lines, modules, import circles, class names with several homes, thin modules with one importer."""
    modules = {_dotted(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}
    texts = {name: path.read_text() for name, path in modules.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    imports = {name: _imports(tree, modules) - {name} for name, tree in trees.items()}
    importers: dict[str, set[str]] = defaultdict(set)
    for name, targets in imports.items():
        for target in targets:
            importers[target].add(name)
    homes: dict[str, list[str]] = defaultdict(list)
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    thin = [
        name for name, text in texts.items()
        if len(text.splitlines()) < THIN and len(importers[name]) == 1 and modules[name].name != "__init__.py"
    ]  # fmt: skip
    return {
        "lines of product code": sum(len(t.splitlines()) for t in texts.values()),
        "modules": len(modules),
        "import circles": [" <-> ".join(c) for c in circles(imports)],
        "class names with several homes": [f"{n} ({len(h)})" for n, h in sorted(homes.items()) if len(h) > 1],
        f"under {THIN} lines, one importer": thin,
    }


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected groups of modules, imports in functions and for annotations included (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(imports.get(name, ())):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(imports):
        if name not in index:
            visit(name)
    return found


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "asof" else ("asof", *parts)  # asof/training is a link to training
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, modules: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if name in modules} or {node.module}
    return found & set(modules)


def walks() -> dict[str, list[str]]:
    """The files of ``asof/`` that one training row, one read of one key and one pushed event pass."""
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder) / "repo"
        _make_repo(repo)
        try:
            return _walks(repo)
        finally:
            _asof(repo, "redis", "stop")


def _walks(path: Path) -> dict[str, list[str]]:
    from asof.offline import retrieve
    from asof.online import Reader
    from asof.repo import Repo
    from asof.tables import Pusher

    repo = Repo.open(path)
    moment = START + timedelta(days=2)
    rows = pa.table({"sensor": [1], "event_timestamp": pa.array([moment], pa.timestamp("us", "UTC"))})
    contracts = {service: repo.contract(service) for service in VALUES}
    readers = {service: Reader(contract, repo.settings.online) for service, contract in contracts.items()}
    pusher = Pusher(repo, ["cal_push", "readings_push"])
    identity = iter(range(1000, 2000))

    def training_row(service: str) -> None:
        answer = retrieve(contracts[service], rows, at="event_timestamp", repo=path)
        assert answer.column(-1).to_pylist() == [VALUES[service]]

    def read_of_one_key(service: str) -> None:
        vectors = readers[service].read({"sensor": [1]}, np.array([int(moment.timestamp() * 1e6)]))
        assert float(vectors.values[0, 0]) == VALUES[service]

    def pushed_event(table: str) -> None:
        pusher.push(table, _events([next(identity)], START + timedelta(days=5)))
        pusher.flush()

    try:
        return {
            f"files: {walk.__name__}, {argument}": _traced(lambda walk=walk, argument=argument: walk(argument))
            for walk, argument in (
                (training_row, "plain"), (training_row, "window"), (read_of_one_key, "plain"), (read_of_one_key, "window"),
                (pushed_event, "cal_push"), (pushed_event, "readings_push"),
            )
        }  # fmt: skip
    finally:
        for reader in readers.values():
            reader.close()


def _traced(walk: Callable[[], None]) -> list[str]:
    """The files of ``asof/`` whose functions are called while ``walk`` runs for the second time."""
    walk()
    files: set[str] = set()

    def note(frame: Any, event: str, _argument: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        walk()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    house = str(ROOT / "asof")
    return sorted(str(Path(f).relative_to(ROOT)) for f in files if f.startswith(house))


def _make_repo(repo: Path) -> None:
    (repo / "data").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(STORE)
    (repo / "definitions.py").write_text(DEFINITIONS)
    _asof(repo, "apply")
    for table in ("cal", "readings"):
        pq.write_table(_events([1, 2], START + timedelta(days=1, hours=12)), repo.parent / f"{table}.parquet")
        _asof(repo, "ingest", table, str(repo.parent / f"{table}.parquet"))
    _asof(repo, "materialize", "--to", "2024-01-03T00:00:00Z")


def _events(ids: list[int], first: datetime) -> pa.Table:
    moments = [first + timedelta(hours=i) for i in range(len(ids))]
    return pa.table(
        {
            "id": ids, "sensor": [1] * len(ids), "value": [float(i) for i in ids],
            "at": pa.array(moments, pa.timestamp("us", "UTC")),
        }
    )  # fmt: skip


def _asof(repo: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "asof", "--repo", str(repo), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


main()
