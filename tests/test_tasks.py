"""Models of every task, the whole way over real processes: trained, served over HTTP, watched, and judged once labels are known."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import ndcg_score

from asof.bundle import Bundle
from asof.online.redis.server import EmbeddedRedis
from asof.settings import RepoSettings
from tests.serving.processes import asof, free_port, running

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS, EACH, SELLERS, SINCE = 30, 60, 15, 24
CLASSES = ("express", "lost & found", "slow, very")
MODEL = """
from asof.task import Multiclass, Quantiles, Ranking, Regression
from asof.training.model import LabelledRows, Model, Suspicion

goal = Model(
    name="goal",
    service="shop_v1",
    rows=LabelledRows(
        table="orders", event_time="placed_at", id="order_id", keys=("seller_id",), label="{label}", label_table="orders_labels",
    ),
    task={task},
    categories=("hour",),
    unit="seller_id",
)
"""


def orders() -> pl.DataFrame:
    """Orders whose number of parcels, hours and kind depend on their weight, known two days after."""
    random = np.random.default_rng(5)
    n = DAYS * EACH
    weight = np.round(random.gamma(3.0, 2.0, n), 2)
    placed = [START + timedelta(minutes=int(m)) for m in np.sort(random.integers(0, DAYS * 1440, n))]
    kind = np.array(CLASSES)[np.clip((weight + random.normal(0, 2, n)) // 4, 0, 2).astype(int)]
    return pl.DataFrame(
        {
            "order_id": np.arange(n),
            "seller_id": random.integers(0, SELLERS, n),
            "weight": weight,
            "placed_at": placed,
            "delivered_at": [moment + timedelta(days=2) for moment in placed],
            "late": (weight + random.normal(0, 2, n) > 8).astype(np.int64),
            "parcels": random.poisson(weight / 3),
            "hours": np.round(20 + 5 * weight + random.normal(0, 8, n), 3),
            "kind": kind.tolist(),
        }
    )


@dataclass(frozen=True)
class Watched:
    """A model that was trained, served, and asked about the last days.

    Attributes:
        bundle: The model.
        trained: What ``asof train --json`` said.
        answer: The predictions of two rows.
        columns: Properties of a prediction in the service's OpenAPI document.
        reports: Command -> what it said.
        log: The prediction log.
    """

    bundle: Bundle
    trained: dict[str, Any]
    answer: list[dict[str, Any]]
    columns: set[str]
    reports: dict[str, dict[str, Any]]
    log: pl.DataFrame


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo that `asof init` made, with the orders of the first days in its tables."""
    folder = tmp_path_factory.mktemp("tasks")
    orders().write_parquet(folder / "orders.parquet")
    orders().filter(pl.col("placed_at") < START + timedelta(days=SINCE)).write_parquet(folder / "first.parquet")
    later = [word for name in ("parcels", "hours", "kind") for word in ("--later", name)]
    command = [
        sys.executable,
        "-m",
        "asof",
        "init",
        "orders.parquet",
        "--into",
        "shop",
        "--label",
        "late",
        *later,
        "--yes",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    repo = folder / "shop"
    shutil.rmtree(repo / "models")
    (repo / "models").mkdir()
    for words in (
        ("apply",),
        ("ingest", "orders", folder / "first.parquet"),
        ("ingest", "orders_labels", folder / "first.parquet"),
    ):
        said(repo, *map(str, words))
    EmbeddedRedis(repo / "data" / "redis").stop()
    return repo


def said(repo: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """The answer of a command of asof as JSON."""
    done = asof(repo, *arguments, "--json")
    assert done.returncode in codes, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def watched(shop: Path, folder: Path, label: str, task: str) -> Iterator[Watched]:
    """Train a model of ``task`` on a copy of the repo, serve it, replay the last days and let every report judge them."""
    repo = folder / "shop"
    shutil.copytree(shop, repo, ignore=shutil.ignore_patterns("redis"))
    (repo / "models" / "goal.py").write_text(MODEL.format(label=label, task=task))
    first, last = ((START + timedelta(days=days)).isoformat() for days in (SINCE, DAYS))
    said(repo, "apply")  # the copy has a Redis of its own
    trained = said(repo, "train", "goal")
    said(repo, "materialize", "--to", first)
    said(repo, "build", "goal")
    rows = [{"seller_id": 1, "weight": w, "placed_at": first} for w in (1.0, 15.0)]
    settings = RepoSettings.load(repo)
    try:
        port = free_port()
        command = [sys.executable, "-m", "asof", "--repo", str(repo), "serve", "goal", "--port", str(port)]
        with running(command, settings, folder / "service.log", port) as service:
            service.until_ready()
            status, body, _ = service.predict(*rows)
            assert status == 200, body
            columns = set(service.ask("/docs.json")[1]["components"]["schemas"]["Prediction"]["properties"])
            data = str(shop.parent / "orders.parquet")
            said(repo, "replay", "goal", "--from", first, "--to", last, "--data", data, "--url", service.url)
        reports = {
            name: said(repo, name, "goal", *more, codes=(0, 1))
            for name, more in (("skew", ()), ("drift", ()), ("performance", ()), ("profile", ()))
        }
        reports["drill"] = said(repo, "drill", "goal", "-o", str(folder / "log"), "--scale", "weight=3")
        reports["shifted"] = said(repo, "drift", "goal", "--log", str(folder / "log"), codes=(1,))
    finally:
        EmbeddedRedis(repo / "data" / "redis").stop()
    log = pl.read_parquet(repo / "data" / "predictions" / "goal" / "**" / "*.parquet")
    yield Watched(Bundle.find(settings.models, "goal"), trained, body["predictions"], columns, reports, log)


TASKS = {
    "mean": ("hours", "Regression()"),
    "counts": ("parcels", 'Regression("poisson")'),
    "interval": ("hours", "Quantiles((0.1, 0.5, 0.9))"),
    "classes": ("kind", "Multiclass()"),
    "order": ("parcels", 'Ranking("seller_id", k=5)'),
}


@pytest.fixture(scope="module", params=list(TASKS))
def run(
    request: pytest.FixtureRequest, shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Watched]]:
    """The name of a task, and its model."""
    for found in watched(shop, tmp_path_factory.mktemp(request.param), *TASKS[request.param]):
        yield request.param, found


def test_the_model_learned_and_its_bundle_says_what(run: tuple[str, Watched]) -> None:
    """Each model is better than its labels' mean, median or most frequent class would be, and the bundle names task and metrics."""
    name, model = run
    figures = {metric: figure["value"] for metric, figure in model.trained["metrics"].items()}
    better = {
        "mean": lambda: figures["r2"] > 0.5,
        "counts": lambda: figures["r2"] > 0.2 and figures["poisson_deviance"] > 0,
        "interval": lambda: 0.6 < figures["coverage"] < 0.95 and figures["width"] > 0,
        "order": lambda: figures["ndcg"] > 0.6,  # a random order gives 0.42, the weight itself 0.75
        "classes": lambda: figures["accuracy"] > 0.5 and figures["f1_macro"] > 0.4,
    }

    assert better[name](), figures
    assert model.trained["decision"] is None
    assert model.bundle.task.kind == model.trained["task"]["kind"]


def test_the_service_answers_as_the_task_has_it(run: tuple[str, Watched]) -> None:
    """An answer has values, quantiles or classes, as the OpenAPI document says: LightGBM's own for the logged features, hours as categories."""
    name, model = run
    light, heavy = model.answer
    log = model.log.filter(pl.col("request_id") == light["request_id"]).sort("row")
    hours = {hour: float(place) for place, hour in enumerate(model.bundle.metadata["categories"]["hour"])}
    coded = log.with_columns(pl.col("feature.hour").replace_strict(hours, default=None, return_dtype=pl.Float64))
    matrix = coded.select([f"feature.{f}" for f in model.bundle.metadata["features"]]).to_numpy().astype(np.float64)
    own = [lightgbm.Booster(model_file=file).predict(matrix, num_threads=1) for file in model.bundle.booster_files]

    assert set(light) == model.columns
    if name == "classes":
        for answer, expected in zip(model.answer, own[0], strict=True):
            assert answer["probabilities"] == dict(zip(CLASSES, expected.tolist(), strict=True))
            assert answer["class"] == CLASSES[int(np.argmax(expected))]
        assert log["class"].to_list() == [a["class"] for a in model.answer]
        assert (light["class"], heavy["class"]) == (CLASSES[0], CLASSES[2])
    elif name == "order":
        assert [a["score"] for a in model.answer] == own[0].tolist() == log["score"].to_list()
        assert (light["rank"], heavy["rank"]) == (2, 1)
    elif name == "interval":
        assert [list(a["quantiles"].values()) for a in model.answer] == np.sort(np.column_stack(own), axis=1).tolist()
        assert log["output.0.9"].to_list() == [a["quantiles"]["0.9"] for a in model.answer]
        assert light["value"] == light["quantiles"]["0.5"] < heavy["value"]
    else:
        assert [a["value"] for a in model.answer] == own[0].tolist() == log["score"].to_list()
        assert light["value"] < heavy["value"]
    assert log["decision"].null_count() == len(log)


def test_what_was_served_is_what_training_would_have_seen(run: tuple[str, Watched]) -> None:
    """The replayed rows have no mismatch; the two rows of the future that were asked for by hand are recomputed as well."""
    report = run[1].reports["skew"]["versions"][0] if "versions" in run[1].reports["skew"] else run[1].reports["skew"]

    assert report["mismatches"] == 0, report


def test_drift_of_what_is_predicted_is_seen(run: tuple[str, Watched]) -> None:
    """With weights three times as large, `asof drift` names the weight and what the model gave."""
    name, model = run
    report = model.reports["shifted"]
    columns = {c["name"]: c["verdict"] for c in (report.get("versions") or [report])[0]["columns"]}
    outputs = {"interval": "output 0.5", "classes": f"output {CLASSES[2]}"}.get(name, "score")

    assert columns["weight_now"] == "drift"
    assert columns[outputs] == "drift", columns


def test_performance_is_judged_by_labels(run: tuple[str, Watched]) -> None:
    """`asof performance` computes the task's metrics on the replayed rows, and they agree with a computation by hand."""
    name, model = run
    report = model.reports["performance"]
    report = (report.get("versions") or [report])[0]
    figures = {f["name"]: f["value"] for f in report["figures"]}
    label = TASKS[name][0]
    known = orders().filter(pl.col("delivered_at") < START + timedelta(days=DAYS))
    truth = known.select(pl.col("order_id").cast(pl.String).alias("request_id"), pl.col(label).alias("truth"))
    rows = model.log.join(truth, on="request_id").filter(pl.col("request_id") != model.answer[0]["request_id"])

    assert report["labelled"] == len(rows) > 200
    if name == "classes":
        assert figures["accuracy"] == pytest.approx((rows["class"] == rows["truth"]).mean())
    elif name == "order":
        by_hand = [ndcg_score([part["truth"]], [part["score"]], k=5) for part in rows.partition_by("key.seller_id")]
        assert figures["ndcg"] == pytest.approx(np.mean(by_hand))
    elif name == "interval":
        inside = (rows["output.0.1"] <= rows["truth"]) & (rows["truth"] <= rows["output.0.9"])
        assert figures["coverage"] == pytest.approx(inside.mean())
    else:
        assert figures["rmse"] == pytest.approx(float(((rows["score"] - rows["truth"]) ** 2).mean()) ** 0.5)  # type: ignore[operator, arg-type]
    assert set(figures) <= set(model.trained["metrics"])
