"""A feature repo with applied tables, made without Feast: what `asof apply` remembers is written as it writes it."""

from pathlib import Path

import pyarrow as pa

from asof.contract import Aggregation, Field, JoinKey, Source, View
from asof.contract.cache import digest
from asof.instants import DAY
from asof.repo import Repo
from asof.tables import delta, quarantine
from asof.tables.declarations import CACHE, Declarations, _write
from asof.tables.schema import TableDeclaration

NOW = 1_600_000_000_000_000
"""The wall clock of these tests: 2020-09-13T12:26:40Z."""

PAYMENTS = TableDeclaration(
    name="payments",
    path="data/tables/payments",
    format="delta",
    timestamp_field="paid_at",
    knowledge_field="known_at",
    keys=("customer",),
    push_names=("payments_push",),
    tags={
        "asof.id": "id",
        "asof.column.id": "int64 >= 0",
        "asof.column.paid_at": "timestamp",
        "asof.column.customer": "int64",
        "asof.column.amount": "float64 in 0..1000",
        "asof.column.kind": "string in {card, cash}",
        "asof.column.known_at": "timestamp",
        "asof.derive.known_at": "paid_at + 1 microsecond",
    },
)

READINGS = TableDeclaration(
    name="readings", path="data/tables/readings", format="delta", timestamp_field="ts", keys=("sensor",)
)
"""A table that declares nothing but its times and keys: no id, no columns."""

ZONED = TableDeclaration(
    name="zoned",
    path="data/tables/zoned",
    format="delta",
    timestamp_field="ts",
    tags={"asof.id": "id", "asof.column.id": "string", "asof.column.ts": "timestamp zoned"},
)

SPENDING = View(
    name="spending",
    alias="spending",
    join_keys=(JoinKey("customer", "customer", "int64"),),
    features=(Field("count_1d", "int64"), Field("mean_1d", "float64")),
    ttl=0,
    source=Source("payments", PAYMENTS.path, "delta", "paid_at", "known_at", event_id="id", push_name="payments_push"),
    aggregations=(Aggregation("count_1d", "amount", "count", DAY), Aggregation("mean_1d", "amount", "mean", DAY)),
)


def make_repo(folder: Path, found: Declarations | None = None) -> Repo:
    """A repo whose registry nobody reads, because what was read from it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text("project: tests\nregistry: data/registry.db\nprovider: local\n")
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "registry.db").write_bytes(b"registry")
    repo = Repo.open(folder)
    found = found or Declarations({t.name: t for t in (PAYMENTS, READINGS, ZONED)}, (SPENDING,))
    key = digest(repo.settings, folder / "data" / "registry.db")
    _write(folder / "data" / CACHE, key, "tests", found)
    return repo


def held(repo: Repo, name: str) -> pa.Table:
    """Everything that a table holds."""
    table = delta.open_table(repo.path / "data" / "tables" / name)
    assert table is not None
    return delta.scan(table, delta.schema(table).names)


def set_aside(repo: Repo, name: str) -> list[dict]:
    """Everything in a table's quarantine."""
    table = delta.open_table(quarantine.folder(repo, name))
    return [] if table is None else delta.scan(table, delta.schema(table).names).to_pylist()
