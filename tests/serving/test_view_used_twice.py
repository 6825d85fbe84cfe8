"""A view that a service uses twice is served over HTTP: each use has its own keys, features and missing names."""

from __future__ import annotations

import functools
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from asof import bundle, prediction_log
from asof.online import AsyncMemoryStore, AsyncReader, MemoryStore, Writer
from asof.serving import deployment, worker
from asof.serving.feature_fetcher import FeatureFetcher
from asof.settings import RepoSettings
from tests.laws.test_view_used_twice import DAY, START, matches
from tests.serving.inside import error, post

pytestmark = [
    pytest.mark.usefixtures("limits"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's own, about its libraries
]

FEATURES = ["home__rank", "away__rank"]
AT = "2024-05-08T00:00:00Z"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a Bento of a model of matches holds, with players 1 and 2 in its online store."""
    contract, random = matches(), np.random.default_rng(0)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "feature_store.yaml").write_text(
        "project: tennis\nonline_store: {type: asof.online.RedisOnlineStore}\n"
    )
    ranks = random.normal(50, 20, (500, 2))
    data = lightgbm.Dataset(ranks, (ranks[:, 0] < ranks[:, 1]).astype(int))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 20)
    with bundle.writing(tmp_path / "models", "winner", "v1") as folder:
        booster.save_model(folder / "model.txt")
        (folder / "contract.json").write_text(contract.to_json())
        bundle.write_json(
            folder / "metadata.json",
            {
                "model": "winner", "version": "v1", "service": contract.service, "fingerprint": contract.fingerprint,
                "features": FEATURES, "decision": {"threshold": 0.5, "how": "fixed"}, "rows": {},
            },
        )  # fmt: skip
    (tmp_path / "built").mkdir()
    (tmp_path / "models" / "winner" / "v1").rename(tmp_path / "built" / "bundle")
    deployment.write(tmp_path / "built", RepoSettings.load(tmp_path / "repo"))

    memory = MemoryStore()
    moments = pa.array([START, START + DAY]).cast(pa.timestamp("us", "UTC"))
    writer = Writer(contract.project, memory)
    writer.register(contract.views)
    players = pa.table({"player_id": [1, 2], "ts": moments, "rank": [3.0, 80.0], "hand": ["left", "right"]})
    writer.write(contract.views[0], players)
    connect = functools.partial(FeatureFetcher, connect=lambda known, _: AsyncReader(known, AsyncMemoryStore(memory)))
    monkeypatch.setattr(worker, "FeatureFetcher", connect)
    return tmp_path / "built"


def test_both_uses_of_a_view_are_served(built: Path) -> None:
    """The score is that of the vector of both players, an unknown player is missing on its side alone, and the log tells the sides apart."""
    rows = [{"home_id": 1, "away_id": 2}, {"home_id": 2, "away_id": 1}, {"home_id": 1, "away_id": 9}]
    found = post(built, {"rows": rows, "at": AT}).json()["predictions"]
    vectors = np.array([[3.0, 80.0], [80.0, 3.0], [3.0, np.nan]])
    expected = np.asarray(lightgbm.Booster(model_file=str(built / "bundle" / "model.txt")).predict(vectors))
    assert [p["score"] for p in found] == expected.tolist()
    assert [p["missing"] for p in found] == [[], [], ["away__rank", "away__hand"]]
    log = built.parent / "repo" / "data" / "predictions"
    logged = pa.concat_tables(prediction_log.scan(log, "winner", START, START + 9 * DAY)).sort_by("row").to_pydict()
    assert (logged["key.home_id"], logged["key.away_id"]) == ([1, 2, 1], [2, 1, 9])
    assert (logged["feature.home__rank"], logged["feature.away__rank"]) == ([3.0, 80.0, 3.0], [80.0, 3.0, None])
    assert logged["feature.away__hand"] == ["right", "left", None]


def test_each_use_has_a_key_of_its_own(built: Path) -> None:
    """A request without the key of one side is refused with the name of that key; the view's own key is no field."""
    lacking = error(post(built, {"rows": [{"home_id": 1}], "at": AT}))
    assert [(p["row"], p["field"]) for p in lacking["problems"]] == [(0, "away_id")]
    own = error(post(built, {"rows": [{"home_id": 1, "away_id": 2, "player_id": 3}], "at": AT}))
    assert [p["field"] for p in own["problems"]] == ["player_id"]
