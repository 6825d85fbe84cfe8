"""A replay sends recorded rows to a running service in an order that changes no value."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof import prediction_log
from asof.bundle import Bundle
from asof.contract import Contract
from asof.errors import ServiceError, UsageError
from asof.instants import parse_moment
from asof.repo import Repo
from asof.serving.replay import Replay, served_version
from asof.serving.replay_source import Recording, TimedRows, record
from asof.settings import RepoSettings
from asof.tables import Declarations, TableDeclaration, ingest
from tests.serving.contracts import machines
from tests.serving.doubles import NOON
from tests.serving.processes import Service, asof, declare
from tests.tables.repos import make_repo as make_tables

START = datetime(2024, 5, 2, tzinfo=UTC)
MACHINES, READINGS, DAYS = 12, 600, 3


def readings(seed: int = 5) -> pa.Table:
    """Readings of a few machines over a few days, with ties in time, null keys and unknown sites."""
    random = np.random.default_rng(seed)
    seconds = np.sort(random.integers(0, DAYS * 86_400, READINGS))
    seconds[100:110] = seconds[100]
    machine = [None if random.random() < 0.03 else int(m) for m in random.integers(1, MACHINES, READINGS)]
    return pa.table(
        {
            "reading_id": pa.array(range(1_000, 1_000 + READINGS), pa.int64()),
            "machine_id": pa.array(machine, pa.int64()),
            "site": [["north", "old", "nowhere", None][i] for i in random.integers(0, 4, READINGS)],
            "load": random.uniform(0, 100, READINGS),
            "read_at": pa.array([START + timedelta(seconds=int(s)) for s in seconds], pa.timestamp("us", "UTC")),
            "broken": pa.array(random.integers(0, 2, READINGS), pa.int8()),
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The readings that have a machine, as a file; rows without one have no place in the table."""
    table = readings()
    pq.write_table(table.filter(table["machine_id"].is_valid()), tmp_path / "readings.parquet")
    return tmp_path / "readings.parquet"


def expected(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each reading's stored features must have been, by brute force over everything known before it."""
    before = [(NOON - timedelta(hours=h), 1, load) for h, load in ((1, 2.0), (2, 4.0), (3, 6.0), (26, 9.0))]
    found = {}
    for row in rows:
        at, machine = row["read_at"], row["machine_id"]
        own = [(t, load) for t, m, load in before if m == machine]
        own += [(r["read_at"], r["load"]) for r in rows if r["machine_id"] == machine and r["read_at"] < at]
        day = [load for t, load in own if t > at - timedelta(days=1)]
        week = [load for t, load in own if t > at - timedelta(days=7)]
        found[str(row["reading_id"])] = {
            "load_count_1d": len(day),
            "load_mean_1d": statistics.fmean(day) if day else None,
            "load_max_7d": max(week) if week else None,
        }
    return found


def replay(settings: RepoSettings, service: Service, file: Path, *arguments: str) -> dict[str, Any]:
    """The answer of ``asof replay``."""
    span = ("--from", "2024-05-02", "--to", "2024-05-05", "--data", str(file), "--url", service.url)
    answer = asof(settings.path, "replay", "breakdown", *span, *arguments, "--json")
    assert answer.returncode == 0, answer.stderr
    payload: dict[str, Any] = json.loads(answer.stdout)
    return payload


def test_a_replay_serves_what_was_known_and_ingests_everything(
    settings: RepoSettings, service: Service, file: Path
) -> None:
    """Every served value equals brute force over what was known; run again, a replay scores and adds nothing.

    Another replay of the same past on the same online store is refused, and a read of its moments says that they are not kept.
    """
    service.until_ready()
    rows = pq.read_table(file).to_pylist()
    report = replay(settings, service, file, "--concurrency", "4")
    known = [r for r in rows if r["read_at"] + timedelta(days=1) < START + timedelta(days=DAYS)]
    assert (report["answered"], report["failed"], report["skipped"]) == (len(rows), 0, 0)
    assert report["pushed"] == {"readings": len(rows), "verdicts": len(known)}
    span = (parse_moment("2024-05-02"), parse_moment("2024-05-05"))
    served = pa.concat_tables(prediction_log.scan(settings.predictions, "breakdown", *span)).to_pylist()
    wanted = expected(rows)
    assert sorted(r["request_id"] for r in served) == sorted(wanted)
    for row in served:
        for name, value in wanted[row["request_id"]].items():
            assert row[f"feature.{name}"] == (pytest.approx(value, rel=1e-9) if value is not None else None)
    again = replay(settings, service, file)
    assert (again["answered"], again["skipped"]) == (0, len(rows))
    early = [*("--from", "2024-05-02", "--to", "2024-05-05"), *("--data", str(file), "--url", service.url)]
    (settings.predictions / "breakdown").rename(settings.predictions / "set aside")
    refused = asof(settings.path, "replay", "breakdown", *early)
    (settings.predictions / "set aside").rename(settings.predictions / "breakdown")
    assert refused.returncode == 2
    assert "the online store is at a later moment already: of machine_loads" in refused.stderr
    status, body, _ = service.predict(
        {"machine_id": 1, "site": "north", "load": 8.0, "read_at": "2024-05-02T01:00:00Z"}
    )
    assert status == 200
    assert "load_max_7d" in body["predictions"][0]["not_kept"]
    from_tables = asof(
        settings.path, "replay", "breakdown", "--from", "2024-05-02", "--to", "2024-05-05", "--url", service.url,
        "--limit", "50", "--again", "--json",
    )  # fmt: skip
    assert json.loads(from_tables.stdout)["answered"] == 50
    tables = json.loads(asof(settings.path, "tables", "--json").stdout)["tables"]
    assert {t["table"]: t["rows"] for t in tables} == {"readings": len(rows), "verdicts": len(known)}


def test_a_replay_feeds_every_source_as_it_becomes_known(
    settings: RepoSettings, service: Service, tmp_path: Path
) -> None:
    """A plain view is served as of each row's moment; spans without rows to score are fed; what cannot be fed is named."""
    service.until_ready()
    shift = timedelta(days=40)
    table = readings(6).filter(pc.is_valid(readings(6)["machine_id"])).slice(0, 200)
    rows = [{**r, "reading_id": r["reading_id"] + 10_000, "read_at": r["read_at"] + shift} for r in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "later.parquet")
    hours = [(name, START + shift + timedelta(minutes=37 * i)) for i in range(160) for name in ("north", "old")]
    sites = {
        "site": [name for name, _ in hours], "crew": pa.array(range(len(hours)), pa.int32()),
        "grade": ["A"] * len(hours), "open": [True] * len(hours),
        "seen_at": pa.array([at for _, at in hours], pa.timestamp("us", "UTC")),
    }  # fmt: skip
    span = ("--from", "2024-06-11", "--to", "2024-06-14", "--data", str(tmp_path / "later.parquet"), "--json")
    command = (settings.path, "replay", "breakdown", "--url", service.url)
    unfed = asof(*command, *span, "--limit", "1")
    assert "not fed: source 'sites'" in unfed.stderr
    assert list(json.loads(unfed.stdout)["not_fed"]) == ["sites"]
    pq.write_table(pa.table(sites), settings.path / "sites.parquet")
    declare(settings, TableDeclaration("sites", "sites.parquet", "parquet", "seen_at", None, ("site",)))
    try:
        answer = asof(*command, *span, "--again")
        assert answer.returncode == 0, answer.stderr + answer.stdout
        report = json.loads(answer.stdout)
        empty = json.loads(asof(*command, "--from", "2024-06-14", "--to", "2024-06-16", "--json").stdout)
    finally:
        declare(settings)
    fed = sum(at < datetime(2024, 6, 14, tzinfo=UTC) for _, at in hours)
    assert (report["answered"], report["not_fed"]) == (len(rows), {})
    assert report["pushed"]["sites"] == fed
    assert (empty["rows"], empty["pushed"]["sites"]) == (0, len(hours) - fed)
    moments = (parse_moment("2024-06-11"), parse_moment("2024-06-14"))
    served = pa.concat_tables(prediction_log.scan(settings.predictions, "breakdown", *moments)).to_pylist()
    crews = {r["request_id"]: r["feature.crew"] for r in sorted(served, key=lambda r: r["served_at"])}
    for row in rows:
        known = [i for i, (name, at) in enumerate(hours) if name == row["site"] and at <= row["read_at"]]
        assert crews[str(row["reading_id"])] == (known[-1] if known else None)


@pytest.mark.parametrize("known", ["read_at + 1 microsecond", "arrival"])
def test_rows_without_an_id_are_added_once(tmp_path: Path, known: str) -> None:
    """Replayed again, or from a file that is named twice, rows of a table without an id add nothing; new ones, and equal ones of one file, do."""
    tags = {
        "asof.column.reading_id": "int64", "asof.column.machine_id": "int64", "asof.column.load": "float64",
        "asof.column.read_at": "timestamp", "asof.column.known_at": "timestamp", "asof.derive.known_at": known,
    }  # fmt: skip
    declaration = TableDeclaration(
        "readings", "data/tables/readings", "delta", "read_at", "known_at", ("machine_id",), tags=tags
    )
    loads = replace(machines().views[0], source=replace(machines().views[0].source, event_id=None))
    features = tuple(f for f in machines().features if f.view == loads.name)
    contract = Contract("tests", "loads_v1", features, (loads,))
    rows = {"table": "readings", "id": "reading_id", "event_time": "read_at"}
    bundle = cast("Bundle", SimpleNamespace(contract=contract, metadata={"rows": rows}, model="loads"))
    repo = make_tables(tmp_path / "repo", Declarations({"readings": declaration}, (loads,)))
    given = (
        readings().filter(pc.is_valid(readings()["machine_id"])).select(["reading_id", "machine_id", "load", "read_at"])
    )
    file, twins = tmp_path / "rows.parquet", tmp_path / "twins.parquet"
    pq.write_table(given.slice(0, 100), file)
    pq.write_table(pa.concat_tables([given.slice(0, 110), given.slice(0, 5)]), twins)
    added = []
    for files in ([file], [file], [file, tmp_path / "repo" / ".." / "rows.parquet"], [twins], [twins]):
        found = record(repo, bundle, parse_moment("2024-05-02"), parse_moment("2024-05-05"), files)
        assert len(found.scored.moments) == (115 if files == [twins] else 100)
        added.append(ingest(repo, "readings", found.scored.rows).rows_added)
    assert added == [100, 0, 0, 15, 0]


def test_a_replay_against_nothing_says_so(settings: RepoSettings, file: Path) -> None:
    """Without a service the error is one line that names the address."""
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9"):
        served_version("http://127.0.0.1:9")


def test_a_service_of_another_version_is_refused(settings: RepoSettings, service: Service, file: Path) -> None:
    """A replay ends when the service answers with another model version."""
    service.until_ready()
    repo = Repo.open(settings.path)
    bundle = Bundle.find(settings.models, "breakdown")
    span = (parse_moment("2024-05-02"), parse_moment("2024-05-05"))
    other = Bundle(bundle.path)
    other.__dict__["metadata"] = {**bundle.metadata, "version": "v2"}
    with pytest.raises(ServiceError, match="serves breakdown v1, expected breakdown v2"):
        Replay(repo, other, record(repo, other, *span, [file], 5), service.url).run(again=True)


@pytest.mark.parametrize("url", ["", "ftp://host", "127.0.0.1:3000", "http://", "http://host:port"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """A URL without scheme, host or number is wrong use."""
    with pytest.raises(UsageError, match="expected one such as"):
        served_version(url)


def test_an_empty_span_and_a_file_without_rows_in_it_are_refused(settings: RepoSettings, file: Path) -> None:
    """A replay of nothing is wrong use or a missing source, not a success."""
    swapped = asof(
        settings.path, "replay", "breakdown", "--from", "2024-05-05", "--to", "2024-05-02", "--version", "v1"
    )
    assert (swapped.returncode, "is empty" in swapped.stderr) == (2, True)
    nothing = asof(
        settings.path, "replay", "breakdown", "--from", "2030-01-01", "--to", "2030-01-02",
        "--version", "v1", "--data", str(file),
    )  # fmt: skip
    assert (nothing.returncode, "no rows between" in nothing.stderr) == (3, True)


def recording(
    contract: Contract, machine: list[int | None], site: list[str | None], moments: list[int] | None = None
) -> Recording:
    """A recording of rows with these keys, by default of one microsecond after another."""
    rows = pa.table({"machine_id": pa.array(machine, pa.int64()), "site": pa.array(site, pa.string())})
    at = np.arange(len(machine)) if moments is None else np.array(moments)
    return Recording(contract, TimedRows("readings", rows, at), (), "reading_id", "read_at")


@given(
    keys=st.lists(
        st.tuples(st.one_of(st.none(), st.integers(1, 6)), st.one_of(st.none(), st.sampled_from("abcd"))),
        min_size=1, max_size=40,
    ),
    most=st.integers(1, 10),
    sites=st.sampled_from(["readings", "sites"]),
)  # fmt: skip
def test_rows_scored_side_by_side_do_not_read_each_other(
    keys: list[tuple[int | None, str | None]], most: int, sites: str
) -> None:
    """Chunks cover every row once, in order, are as long as they may be, and hold no key of a view that reads the scored rows twice."""
    contract = machines()
    loads, site = contract.views
    contract = replace(contract, views=(loads, replace(site, source=replace(site.source, name=sites))))
    written = (0, 1) if sites == "readings" else (0,)
    chunks = recording(contract, [m for m, _ in keys], [s for _, s in keys]).chunks(most)
    assert [i for first, last in chunks for i in range(first, last)] == list(range(len(keys)))
    for first, last in chunks:
        for column in written:
            held = [k[column] for k in keys[first:last] if k[column] is not None]
            assert len(held) == len(set(held))
        if last < len(keys) and last - first < most:
            assert any(keys[last][c] is not None and keys[last][c] in {k[c] for k in keys[first:last]} for c in written)


@given(hours=st.lists(st.integers(0, 400), min_size=1, max_size=40))
def test_rows_scored_side_by_side_need_nothing_that_was_dropped(hours: list[int]) -> None:
    """A chunk spans no more time than the online store keeps events beyond the longest window, and no less than it may."""
    moments = [h * 3_600_000_000 for h in sorted(hours)]
    slack = 7 * 24 * 3_600_000_000 // 8
    chunks = recording(machines(), [*range(len(hours))], [None] * len(hours), moments).chunks(256)
    assert [i for first, last in chunks for i in range(first, last)] == list(range(len(hours)))
    assert all(moments[last - 1] - moments[first] <= slack for first, last in chunks)
    assert all(moments[last] - moments[first] > slack for first, last in chunks if last < len(hours))
