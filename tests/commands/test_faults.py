"""Every command, with files that are damaged, gone or other than declared: one sentence of ours, never another library's exception alone.

The repo is one that `asof init` made, with a plain Parquet view added, trained, and with a prediction log.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from asof import prediction_log
from asof.bundle import Bundle
from asof.prediction_log import Entry
from asof.repo import Repo
from tests.commands.conftest import Ran, asof

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = 4_000

PLAIN = """
from feast import FeatureView
from feast.types import String

shops = FileSource(name="shops", path="data/shops.parquet", timestamp_field="since")
shop_profile = FeatureView(
    name="shop_profile", entities=[shop], source=shops,
    schema=[Field(name="shop_id", dtype=Int64), Field(name="rating", dtype=Float64), Field(name="city", dtype=String)],
)
shops_v1 = FeatureService(name="shops_v1", features=[shop_profile, shop_orders])
"""

COMMANDS = {
    "apply": "apply",
    "plan": "plan",
    "doctor": "doctor",
    "tables": "tables",
    "history": "tables orders",
    "ingest": "ingest orders {new}",
    "push": "push orders {new}",
    "materialize": "materialize",
    "get": "get shops_v1 shop_id=1",
    "dataset of few": "dataset shops_v1 --entities {few} -o {out}",
    "dataset of many": "dataset shops_v1 --entities {many} -o {out}",
    "train": "train repo",
    "replay": "replay repo --from 2024-02-01 --to 2024-02-02 --url http://127.0.0.1:9",
    "skew": "skew repo",
    "performance": "performance repo",
    "drift": "drift repo",
    "profile": "profile repo",
    "clean": "clean --dry-run",
}  # fmt: skip

RAW = re.compile(
    r"ASOF_DEBUG|Traceback|\b\w+(Error|Exception):|^asof: [A-Z][A-Za-z ]* (Error|Exception)|panicked", re.MULTILINE
)
"""What betrays an exception of another library: its class, its traceback, or a message that begins with its words."""


@dataclass(frozen=True)
class Shop:
    """The repo, and files for commands to read."""

    repo: Path
    files: dict[str, Path]

    def run(self, command: str) -> Ran:
        """Run one of :data:`COMMANDS`."""
        return asof("--repo", self.repo, *(part.format(**self.files) for part in COMMANDS[command].split()))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The repo, filled and trained."""
    folder = tmp_path_factory.mktemp("faults")
    orders = _orders(ROWS)
    files = {name: folder / f"{name}.parquet" for name in ("orders", "new", "few", "many", "out")}
    repo = folder / "repo"
    pq.write_table(orders, files["orders"])
    pq.write_table(_orders(50, first_id=ROWS), files["new"])
    rows = orders.select(["shop_id"]).append_column("at", orders["ordered_at"])
    pq.write_table(rows, files["many"])
    pq.write_table(rows.slice(3_000, 2), files["few"])
    asof("init", files["orders"], "--label", "late", "--label-delay", "2 days", "--yes", "--into", repo)
    (repo / "definitions.py").write_text((repo / "definitions.py").read_text() + PLAIN)
    (repo / "data").mkdir(exist_ok=True)
    pq.write_table(_shops(), repo / "data" / "shops.parquet")
    searched, loaded = list(sys.path), set(sys.modules)
    steps = (
        "apply",
        f"ingest orders {files['orders']}",
        f"ingest orders_labels {files['orders']}",
        "train repo",
        "materialize",
    )
    try:
        assert [(ran.code, ran.err) for step in steps if (ran := asof("--repo", repo, *step.split())).code] == []
        _log(repo)
        yield Shop(repo, files)
    finally:
        asof("--repo", repo, "redis", "stop")
        sys.path[:] = searched
        for name in set(sys.modules) - loaded:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(repo)):
                del sys.modules[name]


def _orders(rows: int, first_id: int = 0) -> pa.Table:
    rng = np.random.default_rng(first_id)
    amount = rng.gamma(2, 30, rows)
    late = (rng.random(rows) < 1 / (1 + np.exp((60 - amount) / 20))).astype(np.int8)
    moments = [FIRST + timedelta(seconds=int(s)) for s in np.sort(rng.integers(0, 60 * 86_400, rows))]
    ids, shops = np.arange(first_id, first_id + rows), rng.integers(0, 50, rows)
    return pa.table({"order_id": ids, "shop_id": shops, "ordered_at": moments, "amount": amount, "late": late})


def _shops() -> pa.Table:
    moments = pa.array([FIRST] * 3_000, pa.timestamp("us", "UTC"))
    ratings, cities = np.random.default_rng(1).random(3_000), [f"city {i % 7}" for i in range(3_000)]
    return pa.table({"shop_id": np.arange(3_000), "since": moments, "rating": ratings, "city": cities})


def _log(repo: Path) -> None:
    """A log of 20 predictions, whatever their values."""
    found = Repo.open(repo)
    bundle = Bundle.find(found.settings.models, "repo")
    contract, rows = bundle.contract, 20
    at = np.array([1_706_900_000_000_000 + i for i in range(rows)])
    entry = Entry(
        "r", 1_706_900_000_000_000, at, at,
        {k.name: list(range(rows)) for k in contract.keys},
        {f.name: [FIRST if f.dtype == "unixtimestamp" else 1.0] * rows for f in contract.request_fields},
        np.ones((rows, len(contract.features))), {f.name: [None] * rows for f in contract.features if not f.numeric},
        np.zeros((rows, len(contract.features)), np.uint8), np.full((rows, len(contract.views)), -1), np.full((rows, 1), 0.5),
    )  # fmt: skip
    prediction_log.write(
        found.settings.predictions,
        "repo",
        prediction_log.to_table(contract, "repo", bundle.version, [entry], threshold=0.5),
    )


def data_file(shop: Shop) -> Path:
    """The only data file of the Delta table ``orders``."""
    (file,) = (shop.repo / "data" / "tables" / "orders").glob("*.parquet")
    return file


def overwritten(file: Path) -> None:
    """Bytes of the data pages are changed, the footer is whole."""
    content = bytearray(file.read_bytes())
    content[100 : len(content) * 3 // 4] = b"\xa5" * (len(content) * 3 // 4 - 100)
    file.write_bytes(content)


def _other(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def _texts(table: pa.Table) -> pa.Table:
    """Every number that is no key as a text that is no number."""
    for i, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            table = table.set_column(i, field.name, pa.array(["?"] * table.num_rows))
    return table


FAULTS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "overwritten": overwritten,
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "not permitted": lambda file: file.chmod(0),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "without a column": lambda file: _other(file, lambda t: t.drop_columns([n for n in t.column_names if n in {"amount", "rating"}])),
    "without its time": lambda file: _other(file, lambda t: t.drop_columns([n for n in t.column_names if n in {"ordered_at", "since"}])),
    "of other types": lambda file: _other(file, _texts),
    "of columns that differ only in case": lambda file: _other(file, lambda t: t.append_column(t.column_names[-1].upper(), t[t.column_names[-1]])),
}  # fmt: skip


@pytest.fixture
def damaged(shop: Shop) -> Iterator[Shop]:
    """The repo, whose data is afterwards what it was."""
    kept = shop.repo.with_name("kept")
    shutil.copytree(shop.repo, kept, ignore=shutil.ignore_patterns("redis"))
    yield shop
    for name in ("tables", "shops.parquet", "predictions", "registry.db", "quarantine"):
        target, source = shop.repo / "data" / name, kept / "data" / name
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy(source, target)
    for name in ("definitions.py", "feature_store.yaml"):
        shutil.copy(kept / name, shop.repo / name)
    shutil.rmtree(kept)


def complaints(shop: Shop) -> dict[str, str]:
    """Command -> what it said, for commands whose answer is not one of ours."""
    found = {}
    for command in COMMANDS:
        ran = shop.run(command)
        said = ran.err.strip()
        if RAW.search(ran.out + ran.err) or (ran.code in {2, 3} and not ran.out and "asof: " not in said):
            found[command] = said
    return found


def test_every_command_works_on_the_sound_repo(shop: Shop, damaged: Shop) -> None:
    """What the other tests see comes from the damage (nobody serves, and the log's values are invented)."""
    codes = {command: damaged.run(command).code for command in COMMANDS}

    assert codes == {
        **dict.fromkeys(COMMANDS, 0),
        "replay": 3,
        "skew": 1,
        "performance": 4,
        "drift": codes["drift"],
        "doctor": 0,
    }
    assert complaints(damaged) == {}


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f != "not permitted" or os.geteuid()]
)  # root may read everything
@pytest.mark.parametrize("where", ["the Delta table", "the Parquet file"])
def test_a_damaged_file_is_told_in_one_sentence(damaged: Shop, where: str, fault: str) -> None:
    """Every command either does without the file or says what cannot be read and why; readers of the file fail."""
    file = data_file(damaged) if where == "the Delta table" else damaged.repo / "data" / "shops.parquet"
    FAULTS[fault](file)

    ran = damaged.run("dataset of many")

    if (
        where == "the Parquet file" or fault != "of columns that differ only in case"
    ):  # a Delta table has the columns that its log names
        assert ran.code in {2, 3}, ran
        assert "orders" in ran.err or "shops" in ran.err
    assert complaints(damaged) == {}


@pytest.mark.parametrize("damage", ["garbage", "empty", "gone"])
def test_a_damaged_log_of_a_table_is_told_in_one_sentence(damaged: Shop, damage: str) -> None:
    """The newest commit of a Delta table is no JSON, is empty, or all commits are gone."""
    log = damaged.repo / "data" / "tables" / "orders" / "_delta_log"
    if damage == "gone":
        shutil.rmtree(log)
    else:
        max(log.glob("*.json")).write_text("{" if damage == "garbage" else "")

    assert complaints(damaged) == {}


@pytest.mark.parametrize("fault", ["truncated", "overwritten", "empty", "gone", "a folder", "without its time"])
def test_a_damaged_file_of_the_users_own_is_told_in_one_sentence(damaged: Shop, fault: str) -> None:
    """Rows to add, entity rows, and a file of the prediction log; commands that need the file fail, and nothing is written."""
    (log,) = (damaged.repo / "data" / "predictions" / "repo").glob("hour=*/*.parquet")
    given = [damaged.files[name] for name in ("new", "few", "many")]
    kept = {file: file.read_bytes() for file in given}
    try:
        for file in (log, *given):
            FAULTS[fault](file)
        codes = {command: damaged.run(command).code for command in ("ingest", "push", "dataset of many")}
        found = complaints(damaged)
    finally:
        for file, content in kept.items():
            shutil.rmtree(file, ignore_errors=True)
            file.write_bytes(content)

    assert found == {}
    assert set(codes.values()) <= {2, 3} or fault == "without its time"


def test_a_table_that_another_program_wrote_otherwise_is_told_in_one_sentence(damaged: Shop) -> None:
    """A commit of another program left out a column and gave another one another type."""
    folder = str(damaged.repo / "data" / "tables" / "orders")
    rows = _texts(DeltaTable(folder).to_pyarrow_table()).drop_columns(["known_at"])
    write_deltalake(folder, rows, mode="overwrite", schema_mode="overwrite")

    assert complaints(damaged) == {}
    assert "'amount' of source 'orders' is string" in damaged.run("apply").err


@pytest.mark.parametrize(
    "settings",
    ["memory_limit: 1KB", "memory_limit: 20MB\n  temp_directory: feature_store.yaml/spill"],
)
def test_limits_that_are_too_small_are_told_in_one_sentence(damaged: Shop, settings: str) -> None:
    """A memory limit that nothing fits, and a folder to spill to that cannot be made."""
    file = damaged.repo / "feature_store.yaml"
    text = file.read_text()
    file.write_text(text.replace("asof.offline.DuckDBOfflineStore", f"asof.offline.DuckDBOfflineStore\n  {settings}"))
    assert settings in file.read_text()

    assert complaints(damaged) == {}
    assert damaged.run("dataset of many").code in {2, 3}


def test_a_full_disk_is_told_in_one_sentence(damaged: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where DuckDB, pyarrow or the Delta library cannot write, the sentence says where and what to do."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deltalake.write_deltalake", full)
    monkeypatch.setattr("pyarrow.parquet.write_table", full)

    assert complaints(damaged) == {}
    assert "nothing was added" in damaged.run("ingest").err


def test_columns_that_differ_only_in_case_cannot_be_ingested(damaged: Shop) -> None:
    """A table cannot hold both; the file is refused by name, before the Delta library sees it."""
    rows = pa.table({"ts": [FIRST], "amount": [1.0], "Amount": [2.0]})
    pq.write_table(rows, damaged.files["new"].with_name("twins.parquet"))
    (damaged.repo / "definitions.py").write_text(
        (damaged.repo / "definitions.py").read_text()
        + 'free = FileSource(name="free", path="data/tables/free", file_format=DeltaFormat(), timestamp_field="ts")\n'
    )
    assert asof("--repo", damaged.repo, "apply").code == 0
    ran = asof("--repo", damaged.repo, "ingest", "free", damaged.files["new"].with_name("twins.parquet"))

    assert ran.code == 2
    assert "amount and Amount" in ran.err
