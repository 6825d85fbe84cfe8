"""A view used twice in one service has the same values in a dataset, in a read, in a model's columns and in a recomputation."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureView, FileSource
from feast import Field as FeastField
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from asof import bundle, feature_vectors, prediction_log
from asof.bundle import Bundle
from asof.contract import Contract
from asof.feast.compiler import compile_service
from asof.instants import parse_moment
from asof.monitoring.observed import Log, Window
from asof.monitoring.skew import offline, skew
from asof.offline import retrieve
from asof.online import MemoryStore, Reader, Writer

DAY = 86_400_000_000
START = parse_moment("2024-05-06")
NAMES = ("home__rank", "home__hand", "away__rank", "away__hand")


def matches() -> Contract:
    """The players of a match: one view, used for both sides."""
    player = Entity(name="player", join_keys=["player_id"], value_type=ValueType.INT64)
    schema = [
        FeastField(name="player_id", dtype=Int64),
        FeastField(name="rank", dtype=Float64),
        FeastField(name="hand", dtype=String),
    ]
    players = FileSource(name="players", path="players.parquet", timestamp_field="ts")
    form = FeatureView(name="form", entities=[player], ttl=timedelta(0), schema=schema, source=players)
    uses = [form.with_name(side).with_join_key_map({"player_id": f"{side}_id"}) for side in ("home", "away")]
    return compile_service(FeatureService(name="matches_v1", features=uses), [form], "tennis")


def test_both_uses_have_the_same_values_everywhere(tmp_path: Path) -> None:
    """Dataset, read, log and recomputation agree with a loop over all rows; the view is stored once."""
    contract, random = matches(), np.random.default_rng(4)
    assert contract.feature_names == NAMES
    ts = START + np.sort(random.integers(0, 5 * DAY, 300))
    who, rank = random.integers(0, 20, 300), random.normal(50, 20, 300)
    hand = random.choice(["left", "right"], 300)
    moments = pa.array(ts).cast(pa.timestamp("us", "UTC"))
    players = pa.table({"player_id": who, "ts": moments, "rank": rank, "hand": hand})
    pq.write_table(players, tmp_path / "players.parquet")
    home, away = random.integers(0, 22, 100), random.integers(0, 22, 100)
    at = np.full(100, START + 6 * DAY)
    newest = {int(w): i for i, w in enumerate(who)}
    expected = {
        f"{side}__{name}": [values[newest[k]] if k in newest else None for k in keys.tolist()]
        for side, keys in (("home", home), ("away", away))
        for name, values in (("rank", rank.tolist()), ("hand", hand.tolist()))
    }
    rows = pa.table({"home_id": home, "away_id": away, "at": pa.array(at).cast(pa.timestamp("us", "UTC"))})
    dataset = retrieve(contract, rows, at="at", repo=tmp_path, knowledge=True)
    assert dataset.select(NAMES).to_pydict() == expected

    store = MemoryStore()
    writer = Writer("tennis", store)
    writer.register(contract.views)
    writer.write(contract.view("home"), players)
    keys = {"home_id": home.tolist(), "away_id": away.tolist()}
    read = Reader(contract, store).read(keys, at)
    stored = {**dict(zip(read.columns, read.values.T, strict=True)), **read.objects}
    columns = feature_vectors.assemble(contract, stored, {})
    matrix = feature_vectors.matrix(contract, columns, ["home__rank", "away__rank"])
    wanted = np.array([expected["home__rank"], expected["away__rank"]], float).T
    np.testing.assert_array_equal(matrix, wanted)
    assert [columns["home__hand"], columns["away__hand"]] == [expected["home__hand"], expected["away__hand"]]

    vector = np.full((100, 4), np.nan)
    vector[:, [0, 2]] = matrix
    entry = prediction_log.Entry(
        "r", int(at[0]), at, read.as_of, keys, {}, vector, {n: list(columns[n]) for n in ("home__hand", "away__hand")},
        read.statuses, read.event_times, np.zeros((100, 1)),
    )  # fmt: skip
    prediction_log.write(tmp_path / "log", "winner", prediction_log.to_table(contract, "winner", "v1", [entry]))
    with bundle.writing(tmp_path / "models", "winner", "v1") as folder:
        (folder / "contract.json").write_text(contract.to_json())
        (folder / "code").mkdir()
        bundle.write_json(folder / "metadata.json", {"model": "winner", "version": "v1"})
    trained = Bundle.find(tmp_path / "models", "winner")
    report = skew(Log(tmp_path / "log", trained), Window(), offline(trained.contract, tmp_path, trained.code))
    assert (report.mismatches, report.recomputed) == (0, 400)
