"""``asof init``: the repo that it makes from a file applies, trains and passes its own test; what it cannot know it asks for or refuses."""

import io
import os
import shlex
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from asof.online.redis.server import EmbeddedRedis
from tests.commands.conftest import asof

START = datetime(2026, 3, 1, tzinfo=UTC)


def orders(days=24, sellers=12, each=4) -> pl.DataFrame:
    """Orders of sellers; large ones are often late, which is known two days after."""
    random = np.random.default_rng(5)
    n = days * sellers * each
    weight = np.round(random.gamma(3.0, 2.0, n), 2)
    placed = [START + timedelta(minutes=int(m)) for m in np.sort(random.integers(0, days * 1440, n))]
    return pl.DataFrame(
        {
            "order_id": np.arange(n),
            "seller_id": [f"s{i}" for i in random.integers(0, sellers, n)],
            "weight": weight,
            "placed_at": placed,
            "delivered_at": [moment + timedelta(days=2) for moment in placed],
            "days_late": random.integers(0, 5, n),
            "late": (weight + random.normal(0, 2, n) > 8).astype(np.int64),
        }
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder; at the end the Redis of a repo in it is stopped, and what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(tmp_path))]:
        del sys.modules[name]
    for settings in tmp_path.glob("**/feature_store.yaml"):
        EmbeddedRedis(settings.parent / "data" / "redis").stop()


def own_test(repo: Path) -> None:
    """Run the test that the repo came with, in a process of its own; it leaves no redis-server behind."""
    temporary = repo.resolve().parent / "temporary"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", temporary, "tests"], cwd=repo, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    servers = [p for p in psutil.process_iter(["name", "cwd"]) if p.info["name"] == "redis-server"]
    assert not [p for p in servers if (p.info["cwd"] or "").startswith(str(temporary))]


def test_repo_with_a_label_applies_trains_and_passes_its_own_test(folder) -> None:
    """From one Parquet file: tables for events and labels, features for both, and a model that finds what makes orders late."""
    orders().write_parquet("orders.parquet")

    made = asof("init", "orders.parquet", "--into", "shop", "--later", "days_late", "--yes", "--json")

    assert made.code == 0, made.err
    said = made.answer
    assert (said["id"], said["keys"], said["event_time"], said["known_at"]) == (
        "order_id",
        ["seller_id"],
        "placed_at",
        None,
    )
    assert (said["label"], said["label_time"], said["numbers"]) == ("late", "delivered_at", ["weight"])
    steps = [step.split() for step in said["next"] if step.startswith(("asof apply", "asof ingest", "asof train"))]
    ran = {" ".join(words): asof("--repo", "shop", *words[1:], "--json") for words in steps}
    assert {step: r.code for step, r in ran.items()} == dict.fromkeys(ran, 0), [r.err for r in ran.values()]
    assert ran["asof train shop"].answer["metrics"]["auc"]["value"] > 0.8
    assert asof("--repo", "shop", "plan", "--json").answer["changes"] == []
    own_test(folder / "shop")


def test_repo_without_a_label_or_an_id_has_no_model(folder) -> None:
    """From a CSV file of readings with text keys, dates as moments and nothing to predict: definitions apply, the test passes."""
    days = [date(2026, 1, 1) + timedelta(days=i // 4) for i in range(240)]
    rows = pl.DataFrame(
        {"station": [f"s{i % 4}" for i in range(240)], "day": days, "mm": [float(i % 7) for i in range(240)]}
    )
    rows.write_csv("rain.csv")

    made = asof("init", "rain.csv", "--yes", "--json")

    assert made.code == 0, made.err
    assert made.answer["keys"] == ["station"]
    assert (made.answer["id"], made.answer["label"], made.answer["event_time"]) == (None, None, "day")
    assert not (folder / "rain" / "models").exists()
    assert asof("--repo", "rain", "apply").code == 0
    own_test(folder / "rain")


def test_init_asks_and_takes_the_answers(folder, monkeypatch) -> None:
    """Without --yes every guess is a question; an empty answer takes the guess, another one replaces it."""
    orders().write_parquet("orders.parquet")
    answers = ["", "", "", "none", "5 minutes", "late", "none", "3 days", "days_late"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(answers) + "\n"))

    made = asof("init", "orders.parquet", "--json")

    assert made.code == 0, made.err
    assert made.answer["label_time"] is None
    text = (folder / "orders" / "definitions.py").read_text()
    assert '"asof.derive.known_at": "placed_at + 5 minutes"' in text
    assert '"asof.derive.label_known_at": "placed_at + 3 days"' in text
    assert 'label_delay="3 days"' in (folder / "orders" / "models" / "orders.py").read_text()


def test_a_column_of_knowledge_times_is_used(folder) -> None:
    """A column that is named like it and always later than the event says when a row is known."""
    rows = orders().with_columns(recorded_at=pl.col("placed_at") + timedelta(minutes=7))
    rows.write_parquet("orders.parquet")

    made = asof("init", "orders.parquet", "--label", "none", "--yes", "--json")

    assert made.answer["known_at"] == "recorded_at"
    own_test(folder / "orders")


def test_init_never_writes_over_files(folder) -> None:
    """A folder that has files stays as it is."""
    orders().write_parquet("orders.parquet")
    (folder / "orders").mkdir()
    (folder / "orders" / "mine.py").write_text("x = 1\n")

    made = asof("init", "orders.parquet", "--yes")

    assert made.code == 2
    assert "orders exists" in made.err
    assert [p.name for p in (folder / "orders").iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda f: f.drop("delivered_at"), (), "--label-delay SPAN"),
        (lambda f: f.drop("placed_at", "delivered_at"), (), "--event-time COLUMN"),
        (lambda f: f.select("order_id", "placed_at", "weight"), (), "--key COLUMN"),
        (lambda f: f, ("--key", "selller_id"), "did you mean 'seller_id'?"),
        (lambda f: f, ("--event-time", "weight"), "the column holds float64, expected timestamps"),
        (lambda f: f, ("--label", "weight"), "expected a column of zeros and ones"),
        (lambda f: f, ("--delay", "soon"), "got the span 'soon'"),
        (lambda f: f.clear(), (), "has no rows"),
        (lambda f: f.drop("order_id"), ("--label", "late"), "needs a column that identifies a row"),
    ],
    ids=["label delay", "event time", "key", "misspelt", "no moment", "no label", "no span", "no rows", "no id"],
)  # fmt: skip
def test_what_cannot_be_guessed_is_refused(folder, change, arguments, message) -> None:
    """With --yes, what no file can say is wrong use with the option to give; nothing is written."""
    change(orders()).write_parquet("orders.parquet")

    made = asof("init", "orders.parquet", "--yes", *arguments)

    assert made.code in {2, 3}
    assert message in made.err
    assert not (folder / "orders").exists()


def test_columns_that_no_table_holds_are_named(folder) -> None:
    """Structs are left out, and the command says so."""
    orders().with_columns(tags=pl.struct("weight")).write_parquet("orders.parquet")

    made = asof("init", "orders.parquet", "--yes")

    assert made.code == 0, made.err
    assert "left out: tags" in made.out


def test_lists_are_columns_of_the_table(folder) -> None:
    """A list is declared as one; it is no guess for an id, a key or a number, even where it would be the best."""
    few = orders()
    owners = pl.Series("owner_id", [[i % 9] for i in range(few.height)])
    few.with_columns(owners, pl.Series("code_id", [[i] for i in range(few.height)])).write_parquet("orders.parquet")

    made = asof("init", "orders.parquet", "--yes")

    assert made.code == 0, made.err
    assert "left out" not in made.out
    assert '"asof.column.owner_id": "list[int64]"' in Path("orders/definitions.py").read_text()
    assert asof("--repo", "orders", "apply").code == 0
    assert asof("--repo", "orders", "ingest", "orders", "orders.parquet").code == 0


def test_columns_may_have_any_names(folder) -> None:
    """Columns with spaces, accents and signs are keys, moments, labels and numbers like others; features get names made from theirs."""
    named = {
        "seller_id": "Verkäufer id",
        "placed_at": "placed at",
        "delivered_at": "delivered-at",
        "late": "late?",
        "weight": "net + (kg)",
    }
    orders().rename(named).write_csv("orders.csv")

    made = asof(
        "init", "orders.csv", "--into", "my shop", "--key", "Verkäufer id", "--later", "days_late", "--yes", "--json"
    )

    assert made.code == 0, made.err
    steps = [
        shlex.split(step)[1:]
        for step in made.answer["next"]
        if step.startswith(("asof apply", "asof ingest", "asof train"))
    ]
    assert [asof("--repo", "my shop", *step).code for step in steps] == [0] * 4
    own_test(folder / "my shop")


def test_names_that_collide_are_kept_apart(folder) -> None:
    """A file that is called like the entity of its key gives a table of another name."""
    orders().write_parquet("seller.parquet")

    assert asof("init", "seller.parquet", "--label", "none", "--yes", "--json").answer["table"] == "seller_events"
    assert asof("--repo", "seller", "apply").code == 0
