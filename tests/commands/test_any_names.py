"""The loop works whatever characters the repo's path, the tables, the columns, the keys and the values have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands.conftest import asof
from tests.feast.repos import YAML

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

FOLDER = "my répo & co #1 100% 'q' \"r\" ?*"
TABLE = 'vue d\'été & "co" #1 100% ?'
KEY = "clé d'hôte #1"
LATE = 'arrivée "réelle" %'
AMOUNT = 'prix (€) d\'un "lit", 50% ?'
TEXT = "ville & pays #"
ID = 'n° d\'"ordre"'
LABEL = "annulé ? 'oui'"
START = datetime(2024, 5, 6, tzinfo=UTC)
HOSTS = ["O'Brien & fils", "50% #1", 'dit "le Grand"', "日本 é", "a:b|c,d;e", "*?[x]", "%20 {y}", " ", "a\\b\n\t"]

TYPES = {
    ID: "string",
    KEY: "string",
    "ts": "timestamp",
    LATE: "timestamp",
    AMOUNT: "float64",
    TEXT: "string",
    LABEL: "int64",
}
TAGS = {"asof.id": ID, **{f"asof.column.{name}": dtype for name, dtype in TYPES.items()}}

DEFINITIONS = f"""\
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

host = Entity(name="hôte & co", join_keys=[{KEY!r}], value_type=ValueType.STRING)
stays = FileSource(
    name={TABLE!r}, path={"data/tables/" + TABLE!r}, file_format=DeltaFormat(), timestamp_field="ts",
    created_timestamp_column={LATE!r}, tags={TAGS!r},
)
pushed = PushSource(name={TABLE + " push"!r}, batch_source=stays)
latest = FeatureView(
    name="dernier séjour", entities=[host], ttl=timedelta(0), source=pushed,
    schema=[Field(name={KEY!r}, dtype=String), Field(name={AMOUNT!r}, dtype=Float64), Field(name={TEXT!r}, dtype=String)],
)
sums = StreamFeatureView(
    name="sommes d'hôte", entities=[host], timestamp_field="ts", source=pushed,
    schema=[Field(name={KEY!r}, dtype=String), Field(name="somme d'1 jour %", dtype=Float64)],
    aggregations=[Aggregation(column={AMOUNT!r}, function="sum", time_window=timedelta(days=1), name="somme d'1 jour %")],
)
service = FeatureService(name="séjours d'été", features=[latest, sums])
"""
MODEL = f"""\
from asof.training.model import Fit, LabelledRows, Model

model = Model(
    name="annulé", service="séjours d'été", label_delay="1 hours",
    rows=LabelledRows(table={TABLE!r}, event_time="ts", id={ID!r}, keys=({KEY!r},), label={LABEL!r}),
    fit=Fit(rounds=3),
)
"""


def stays(rows: int) -> pa.Table:
    """Stays of ten days, some of them known late."""
    random = np.random.default_rng(3)
    ts = [START + timedelta(seconds=int(s)) for s in np.sort(random.integers(0, 864_000, rows))]
    late = random.integers(0, 7200, rows).tolist()
    return pa.table({
        ID: [f"'{i}' \"%\" #{i}" for i in range(rows)],
        KEY: random.choice(np.array(HOSTS), rows).tolist(),
        "ts": pa.array(ts, pa.timestamp("us", "UTC")),
        LATE: pa.array([t + timedelta(seconds=s) for t, s in zip(ts, late, strict=True)], pa.timestamp("us", "UTC")),
        AMOUNT: random.normal(80, 20, rows),
        TEXT: random.choice(np.array(HOSTS), rows).tolist(),
        LABEL: random.integers(0, 2, rows),
    })  # fmt: skip


def newest(table: pa.Table, host: str) -> dict[str, object]:
    """The host's newest stay, and the sum of its last day at the end of the data, by a loop."""
    end = START + timedelta(days=11)
    rows = [r for r in table.to_pylist() if r[KEY] == host]
    last = max(rows, key=lambda r: (r["ts"], r[LATE]))
    total = sum(r[AMOUNT] for r in rows if r["ts"] > end - timedelta(days=1))
    return {AMOUNT: last[AMOUNT], TEXT: last[TEXT], "somme d'1 jour %": pytest.approx(total)}


def test_any_characters(tmp_path: Path) -> None:
    """Ingest, dataset, materialize, push, read, train and build give values that a loop over the rows gives."""
    repo, table = tmp_path / FOLDER, stays(600)
    (repo / "models").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(YAML.format(project="sejours"))
    (repo / "vues.py").write_text(dedent(DEFINITIONS))
    (repo / "models" / "annulé.py").write_text(MODEL)
    old, new = table.slice(0, 550), table.slice(550)
    pq.write_table(old, repo / "vieux # 1%.parquet")
    pq.write_table(new, repo / "neuf & 'x'.parquet")

    def ran(*arguments: object) -> dict:
        done = asof("--repo", repo, *arguments, "--json")
        assert done.code == 0, (arguments, done.out, done.err)
        return done.answer

    try:
        ran("plan")
        ran("apply")
        assert ran("ingest", TABLE, repo / "vieux # 1%.parquet")["rows_added"] == 550
        ran("materialize", "--to", "2024-05-17")
        ran("push", TABLE, repo / "neuf & 'x'.parquet")
        questions = pa.table({KEY: HOSTS, "ts": pa.array([START + timedelta(days=11)] * len(HOSTS))})
        pq.write_table(questions, repo / "questions é.parquet")
        ran(
            "dataset",
            "séjours d'été",
            "--entities",
            repo / "questions é.parquet",
            "--at",
            "ts",
            "-o",
            repo / "données #.parquet",
        )
        offline = pq.read_table(repo / "données #.parquet").to_pylist()
        expected = [newest(table, host) for host in HOSTS]
        assert [{n: row[n] for n in expected[0]} for row in offline] == expected
        for host, wanted in zip(HOSTS, expected, strict=True):
            row = ran("get", "séjours d'été", f"{KEY}={host}", "--at", "2024-05-17")
            assert {n: row["features"][n]["value"] for n in wanted} == wanted, host
        ran("train", "annulé")
        ran("build", "annulé")
        ran("doctor")
    finally:
        asof("--repo", repo, "redis", "stop")
