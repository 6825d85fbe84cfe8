"""A CSV file means the same whichever way it enters: in a column of strings ``NA`` is a text, and what means missing is declared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from asof.bundle import Bundle
from asof.instants import parse_moment
from asof.repo import Repo
from asof.serving.replay_source import record
from asof.tables import delta
from tests.commands.conftest import asof
from tests.feast.repos import YAML

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

TABLES = ("ingested", "pushed", "streamed", "replayed")

DEFINITIONS = f"""\
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast.data_format import DeltaFormat
from feast.types import Float64, String
from feast.value_type import ValueType

country = Entity(name="country", join_keys=["country"], value_type=ValueType.STRING)
types = {{"id": "int64", "at": "timestamp", "country": "string", "note": "string", "size": "float64", "open": "bool", "left_at": "timestamp"}}
tags = {{"asof.id": "id", **{{"asof.column." + name: dtype for name, dtype in types.items()}}}} | MORE
schema = [Field(name="country", dtype=String), Field(name="note", dtype=String), Field(name="size", dtype=Float64)]
for name in {TABLES!r}:
    source = FileSource(name=name, path="data/tables/" + name, file_format=DeltaFormat(), timestamp_field="at", tags=tags)
    globals()[name] = FeatureView(
        name="view_of_" + name, entities=[country], ttl=timedelta(0), schema=schema,
        source=PushSource(name=name + "_push", batch_source=source),
    )
replay = FeatureService(name="notes_v1", features=[replayed])
"""

ROWS = """\
id,at,country,note,size,open,left_at
1,2024-05-06T00:00:00Z,NA,null,1.5,true,2024-05-07T00:00:00Z
2,2024-05-06T01:00:00Z,NO,,NA,N/A,null
3,2024-05-06T02:00:00Z,"NA","",nan,,
4,2024-05-06T03:00:00Z,007,-,"",false,NaN
"""

COUNTRIES = ["NA", "NO", "NA", "007"]
SIZES = [1.5, None, None, None]
OPEN = [True, None, None, False]


@pytest.fixture(params=[{}, {"asof.missing": '-, null, ""'}], ids=["undeclared", "declared"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An applied repo, the file, and the texts of its column ``note``."""
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(YAML.format(project="notes"))
    (repo / "definitions.py").write_text(DEFINITIONS.replace("MORE", repr(request.param)))
    (tmp_path / "rows.csv").write_text(ROWS)
    yield repo, tmp_path / "rows.csv", [None] * 4 if request.param else ["null", None, "", "-"]
    asof("--repo", repo, "redis", "stop")


def test_a_file_means_the_same_on_every_way_in(world: Any) -> None:
    """Ingest, push, stream and replay read the same values, and none of them sets a row aside."""
    folder, file, notes = world
    for arguments in (
        ("apply",),
        ("ingest", "ingested", file),
        ("push", "pushed_push", file),
        ("stream", "send", "streamed", file),
        ("stream", "run", "streamed", "--once"),
    ):
        ran = asof("--repo", folder, *arguments, "--json")
        assert ran.code == 0, ran.err + ran.out
    repo = Repo.open(folder)
    rows = {"table": "replayed", "id": "id", "event_time": "at"}
    bundle = SimpleNamespace(contract=repo.contract("notes_v1"), metadata={"rows": rows}, model="notes")
    span = (parse_moment("2024-05-06"), parse_moment("2024-05-07"))
    found = {"replayed": record(repo, cast("Bundle", bundle), *span, [file]).scored.rows}
    for name in TABLES[:3]:
        table = delta.open_table(folder / "data" / "tables" / name)
        assert table is not None
        found[name] = delta.scan(table, delta.schema(table).names)
    for name, held in found.items():
        read = held.sort_by("id").to_pydict()
        assert (read["country"], read["note"]) == (COUNTRIES, notes), name
        assert (read["size"], read["open"]) == (SIZES, OPEN), name
        assert [at is None for at in read["left_at"]] == [False, True, True, True], name


def test_rows_of_a_dataset_are_read_as_those_of_a_table(world: Any, tmp_path: Path) -> None:
    """A key called NA is found, a key of digits stays a text, and a number that is NA is missing; an entity file declares no marks."""
    folder, file, notes = world
    for arguments in (("apply",), ("ingest", "replayed", file)):
        assert asof("--repo", folder, *arguments).code == 0
    (tmp_path / "asked.csv").write_text(ROWS.replace("note,size", "remark,area"))
    asked = ("--entities", tmp_path / "asked.csv", "--at", "at", "-o", tmp_path / "made.parquet")
    made = asof("--repo", folder, "dataset", "notes_v1", *asked)
    assert made.code == 0, made.err
    read = pq.read_table(tmp_path / "made.parquet").to_pydict()
    assert (read["country"], read["area"], read["remark"]) == (COUNTRIES, SIZES, ["null", None, "", "-"])
    assert read["note"] == notes


def test_init_takes_na_for_a_text_among_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of which one is NA may identify rows: none of them is missing; among numbers it is missing."""
    monkeypatch.chdir(tmp_path)
    rows = [f"name{i},2024-05-06T{i:02}:00:00Z,{i % 3},{i / 2}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["name,at,kind_id,size", *rows, "NA,2024-05-07T00:00:00Z,1,NA"]))
    made = asof("init", "rows.csv", "--into", "made", "--yes", "--json")
    assert made.code == 0, made.err
    assert made.answer["id"] == "name", made.out
