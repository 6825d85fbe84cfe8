"""Equal definitions have one fingerprint: in every registry, in every process, after every apply and materialization."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from asof.online.redis.server import EmbeddedRedis
from tests.feast.repos import windows_repo

MORE = """
route = Entity(name="route", join_keys=["to_id"], value_type=ValueType.INT64)
trips = FileSource(name="trips", path="data/trips.parquet", timestamp_field="at", field_mapping={"raw_at": "at"})
inferred = FeatureView(name="inferred", entities=[shop, route], source=trips, ttl=timedelta(days=9))
wide = FeatureService(name="wide", features=[inferred, turnover, profile[["rating"]]])
"""
RUN = """
import json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from asof.feast.apply import apply
from asof.repo import Repo
from datetime import datetime, UTC, timedelta
def prints():
    repo = Repo.open(Path(sys.argv[1]))
    views = repo.contract("wide").views
    found.append([repo.contract("wide").fingerprint, repo.contract("shops").fingerprint, sorted(v.name for v in views)])
found = []
for _ in range(2):
    apply(Repo.open(Path(sys.argv[1])))
    prints()
    now = datetime.now(UTC)
    Repo.open(Path(sys.argv[1])).store.materialize(now - timedelta(days=3), now, feature_views=["inferred", "turnover"])
    prints()
print("FOUND" + json.dumps(found))
"""


def test_one_fingerprint_for_equal_definitions(tmp_path: Path) -> None:
    """In a file and in SQL, two processes that order their sets differently apply and materialize twice: one fingerprint."""
    found = [*fingerprints(tmp_path / "file", sql=False), *fingerprints(tmp_path / "sql", sql=True)]
    assert all(one == found[0] for one in found), found
    assert len(found) == 16


def fingerprints(folder: Path, *, sql: bool) -> list[list[str]]:
    """The fingerprints of two services after each apply and each materialization."""
    repo = windows_repo(folder)
    if sql:
        text = (repo / "feature_store.yaml").read_text()
        section = f"registry: {{registry_type: sql, path: 'sqlite:///{repo}/data/registry.sqlite'}}"
        (repo / "feature_store.yaml").write_text(text.replace("registry: data/registry.db", section))
    (repo / "definitions.py").write_text((repo / "definitions.py").read_text() + MORE)
    now = datetime.now(UTC) - timedelta(hours=1)
    times = pa.array([now], pa.timestamp("us", "UTC"))
    trips = {"shop_id": [1], "to_id": [2], "raw_at": times, **{f"f{i}": [float(i)] for i in range(9)}}
    sales = {"shop_id": [1], "sold": times, "known": times, "amount": [2.5], "sale_id": ["a"]}
    profiles = {"shop_id": [1], "at": times, "known": times, "city": ["Bern"], "rating": [4.5]}
    for name, columns in (("trips", trips), ("sales", sales), ("profiles", profiles)):
        pq.write_table(pa.table(columns), repo / "data" / f"{name}.parquet")
    found = []
    try:
        for seed in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
            command = [sys.executable, "-c", RUN, str(repo)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            found += json.loads(done.stdout.partition("FOUND")[2])
    finally:
        EmbeddedRedis(repo / "data" / "redis").stop()
    return found
