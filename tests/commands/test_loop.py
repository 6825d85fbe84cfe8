"""The commands from definitions to served values. The steps run once, in the fixture ``filled``."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from asof.bundle import writing
from asof.contract.cache import recall
from asof.contract.diff import contract_changes
from asof.feast.apply import broken_models
from asof.instants import from_micros, parse_moment
from asof.repo import Repo
from asof.tables import delta
from tests.commands.conftest import asof, copy

AT = "2018-07-25T00:00:00Z"


def test_every_step_succeeds(filled):
    """Plan, apply, simulate, ingest and materialize end with exit code 0; `asof tables` before anything was applied does not."""
    _, said = filled
    assert {name: ran.code for name, ran in said.items()} == {**dict.fromkeys(said, 0), "early": 3}
    assert "run `asof apply` first" in said["early"].err


def test_a_plan_names_every_object_and_changes_nothing(filled):
    """Before the first apply everything is new; afterwards nothing is left to do."""
    _, said = filled
    changes = said["plan"].answer["changes"]
    assert {c["action"] for c in changes} == {"add"}
    assert {"customer_spending", "terminal_risk", "customer_risk", "payment_context", "fraud_v1"} <= {
        c["name"] for c in changes
    }
    assert said["apply"].answer["changes"] == changes
    assert said["planned again"].answer["changes"] == []


def test_ingest_reports_every_row(filled, payments_file):
    """The file's rows are all in both tables; the column that belongs to the other table is named as left out."""
    _, said = filled
    rows = pq.read_metadata(payments_file).num_rows
    assert (said["ingest"].answer["rows_added"], said["ingest"].answer["ignored"]) == (rows, ["tx_fraud"])
    assert (said["ingest reports"].answer["rows_added"], said["ingest reports"].answer["ignored"]) == (
        rows,
        ["tx_amount"],
    )


def test_tables_shows_rows_and_versions(filled, payments_file):
    """`asof tables` lists every table with its rows; with a name, its versions."""
    repo, said = filled
    shown = asof("--repo", repo, "tables", "--json").answer["tables"]
    assert {t["table"]: t["rows"] for t in shown}["transactions"] == said["ingest"].answer["rows_added"]
    listed = asof("--repo", repo, "tables", "transactions", "--json").answer["versions"]
    assert listed[-1]["rows_added"] == said["ingest"].answer["rows_added"]


def customer_of(payments_file):
    """A customer with payments shortly before and long before, and their rows."""
    table = pq.read_table(payments_file)
    counts = pc.value_counts(table["customer_id"]).to_pylist()
    customer = max(counts, key=lambda c: c["counts"])["values"]
    return customer, table.filter(pc.equal(table["customer_id"], customer)).to_pylist()


def test_get_shows_the_values_that_the_events_say(filled, payments_file):
    """What is served for a customer equals counts and means over the file, computed the obvious way."""
    repo, _ = filled
    customer, rows = customer_of(payments_file)
    ran = asof(
        "--repo",
        repo,
        "get",
        "fraud_v1",
        f"customer_id={customer}",
        "terminal_id=1",
        "tx_amount=10",
        "--at",
        AT,
        "--json",
    )
    assert ran.code == 0, ran.err
    features, at = ran.answer["features"], from_micros(parse_moment(AT))
    for days in (1, 7, 30):
        amounts = [r["tx_amount"] for r in rows if at - timedelta(days=days) < r["tx_datetime"] < at]
        assert features[f"customer_payments_{days}d"]["value"] == len(amounts)
        assert features[f"customer_amount_mean_{days}d"]["value"] == pytest.approx(
            sum(amounts) / len(amounts), rel=1e-9
        )
        reported = [
            r["tx_fraud"] for r in rows if at - timedelta(days=days + 7) < r["tx_datetime"] <= at - timedelta(days=7)
        ]
        assert features[f"customer_frauds_{days}d"]["value"] == sum(reported)
    assert features["amount"] == {"value": 10.0, "status": "present"}
    assert features["night"]["value"] == 1


def test_get_tells_unknown_keys_from_missing_values(filled):
    """A customer without any event is NOT_FOUND, and a window over nothing counts 0."""
    repo, _ = filled
    ran = asof(
        "--repo",
        repo,
        "get",
        "fraud_v1",
        "customer_id=999999",
        "terminal_id=999999",
        "tx_amount=10",
        "--at",
        AT,
        "--json",
    )
    features = ran.answer["features"]
    assert features["customer_payments_7d"] == {"value": 0, "status": "not found"}
    assert features["customer_amount_mean_7d"] == {"value": None, "status": "not found"}
    assert features["amount_ratio"] == {"value": None, "status": "null"}


def test_get_of_a_moment_before_what_was_materialized_says_so(filled):
    """A moment long before the materialized one is "not kept", with what to do instead, and no count of 0."""
    repo, _ = filled
    early = ("get", "fraud_v1", "customer_id=1", "terminal_id=1", "tx_amount=1", "--at", "2018-07-01")
    ran = asof("--repo", repo, *early, "--json")
    assert ran.answer["features"]["customer_payments_7d"] == {"value": None, "status": "not kept"}
    assert "asof dataset" in asof("--repo", repo, *early).out


def test_a_pushed_payment_counts_at_once_but_not_for_itself(filled, payments_file, tmp_path):
    """After `asof push` a payment counts one microsecond after its own moment, and not at it: that is how it stays out of its own features."""
    repo, _ = filled
    customer, rows = customer_of(payments_file)
    pushed = {
        "transaction_id": 90_000_001,
        "tx_datetime": from_micros(parse_moment(AT)),
        "customer_id": customer,
        "terminal_id": 1,
        "tx_amount": 7.0,
    }
    pq.write_table(pa.Table.from_pylist([pushed]), tmp_path / "one.parquet")
    question = ("get", "fraud_v1", f"customer_id={customer}", "terminal_id=1", "tx_amount=7", "--json", "--at")
    before = asof("--repo", repo, *question, AT).answer["features"]["customer_payments_1d"]["value"]
    ran = asof("--repo", repo, "push", "transactions_push", tmp_path / "one.parquet", "--json")
    assert (ran.answer["rows_added"], ran.answer["online"]) == (1, {"customer_spending": 1})
    counts = [
        asof("--repo", repo, *question, at).answer["features"]["customer_payments_1d"]["value"]
        for at in (AT, "2018-07-25T00:00:00.000001Z")
    ]
    yesterday = from_micros(parse_moment(AT)) + timedelta(microseconds=1) - timedelta(days=1)
    left = sum(1 for r in rows if r["tx_datetime"] == yesterday)
    assert counts == [before, before + 1 - left]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("get", "fraud_v2", "customer_id=1"), 2, "no feature service named 'fraud_v2'; did you mean 'fraud_v1'?"),
        (("get", "fraud_v1", "customer=1"), 2, "did you mean 'customer_id'?"),
        (
            ("get", "fraud_v1", "customer_id=one", "terminal_id=1", "tx_amount=1"),
            2,
            "field 'customer_id': does not fit, expected int64",
        ),
        (("get", "fraud_v1", "customer_id=1", "terminal_id=1"), 2, "field 'tx_amount': is missing"),
        (("get", "fraud_v1", "customer_id"), 2, "expected name=value"),
        (("get", "fraud_v1", "customer_id=1", "--at", "noon"), 2, "got the time 'noon'"),
        (("materialize", "customer_spendin"), 2, "did you mean 'customer_spending'?"),
        (("materialize", "--from", "2018-08-08", "--to", "2018-08-01"), 2, "is after --to"),
        (("tables", "payments"), 2, "no table named 'payments'"),
        (("push", "payments_push", "x.parquet"), 2, "no table named 'payments_push'"),
        (("ingest", "transactions", "nowhere.parquet"), 3, "nowhere.parquet does not exist"),
        (("simulate", "--customers", "0", "-o", "x.parquet"), 2, "0 is not in the range"),
        (("simulate", "--days", "1", "-o", "x.txt"), 2, "ends in .parquet or .csv"),
    ],
)
def test_wrong_use_is_one_line(filled, arguments, code, message):
    """Whatever is wrong with a command: one line that says what was given and what exists, exit code 2 or 3, nothing on standard output."""
    repo, _ = filled
    ran = asof("--repo", repo, *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1), ran
    assert message in ran.err


def test_plan_sees_what_feast_does_not_and_apply_registers_it(filled, tmp_path):
    """Windows and tiling of a stream view are compared too, and after apply the registry has them."""
    repo, _ = filled
    changed = copy(repo, tmp_path / "changed")
    shutil.copytree(repo / "data", changed / "data", ignore=shutil.ignore_patterns("redis", "tables", "quarantine"))
    views = (changed / "views.py").read_text()
    views = views.replace('"7d": timedelta(days=7)', '"7d": timedelta(days=8)')
    views = views.replace(
        'name="terminal_risk",', 'name="terminal_risk", enable_tiling=True, tiling_hop_size=timedelta(hours=1),'
    )
    (changed / "views.py").write_text(views)
    try:
        before = asof("--repo", changed, "plan", "--json").answer["changes"]
        details = {c["name"]: c["details"] for c in before}
        assert "bucket was 1 microsecond, is 1 hour" in details["terminal_risk"]
        assert (
            "window customer_payments_7d was count(tx_amount) over 7 days, is count(tx_amount) over 8 days"
            in details["customer_spending"]
        )
        assert asof("--repo", changed, "apply", "--json").answer["changes"] == before
        assert asof("--repo", changed, "plan", "--json").answer["changes"] == []
    finally:
        asof("--repo", changed, "redis", "stop")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("views.py", "import Float64", "import Float65", "views.py:"),
        ("services.py", "fraud_v1 =", "fraud_v1 ==", "services.py:"),
        ("views.py", '"count", span', '"median", span', "aggregates with 'median', expected one of"),
        ("sources.py", '"asof.id"', '"asof.ids"', "source 'fraud_reports' has the unknown tag 'asof.ids'"),
        ("sources.py", '"float64 >= 0 required"', '"float64 => 0"', "tag asof.column.tx_amount: got 'float64 => 0'"),
    ],
)
def test_a_mistake_in_a_definition_is_one_line_with_its_place(root, tmp_path, file, old, new, message):
    """A file that cannot be imported is named with its line; a declaration that asof cannot keep its law for with its view."""
    repo = copy(root / "feature_repo", tmp_path / "repo")
    (repo / file).write_text((repo / file).read_text().replace(old, new))
    ran = asof("--repo", repo, "plan")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert message in ran.err
    assert not (repo / "data" / "registry.db").exists()


def test_a_registry_that_changed_is_read_again(filled, tmp_path):
    """What ingest remembers of the registry is forgotten as soon as the registry file is another one."""
    repo, _ = filled
    cache = json.loads((repo / "data" / "declarations.json").read_text())
    assert [t["name"] for t in cache["tables"]] == ["fraud_reports", "transactions"]
    cache["tables"] = []
    (repo / "data" / "declarations.json").write_text(json.dumps({**cache, "key": "another registry"}))
    assert len(asof("--repo", repo, "tables", "--json").answer["tables"]) == 2
    assert json.loads((repo / "data" / "declarations.json").read_text())["key"] == cache["key"]


def test_a_dataset_has_the_rows_that_were_asked_for_and_can_be_made_again(filled, payments_file, tmp_path):
    """`asof dataset` answers every row in order from Parquet and CSV alike; `--like` gives the same bytes after more rows have arrived."""
    repo, _ = filled
    rows = pq.read_table(payments_file).slice(9_000, 300)
    pq.write_table(rows, tmp_path / "rows.parquet")
    pa_csv.write_csv(rows, tmp_path / "rows.csv")
    for kind in ("parquet", "csv"):
        ran = asof(
            "--repo",
            repo,
            "dataset",
            "fraud_v1",
            "--entities",
            tmp_path / f"rows.{kind}",
            "-o",
            tmp_path / f"{kind}.parquet",
            "--json",
        )
        assert (ran.code, ran.answer["rows"], ran.answer["at"]) == (0, 300, "tx_datetime"), ran.err
    made = {kind: pq.read_table(tmp_path / f"{kind}.parquet") for kind in ("parquet", "csv")}
    assert made["parquet"]["transaction_id"].to_pylist() == rows["transaction_id"].to_pylist()
    names = made["parquet"].column_names[rows.num_columns :]
    assert made["parquet"].select(names).equals(made["csv"].select(names))
    late = pa.Table.from_pylist([{**rows.slice(0, 1).to_pylist()[0], "transaction_id": 91_000_000, "tx_amount": 999.0}])
    pq.write_table(late.set_column(1, "tx_datetime", rows["tx_datetime"].slice(0, 1)), tmp_path / "late.parquet")
    assert asof("--repo", repo, "ingest", "transactions", tmp_path / "late.parquet").code == 0
    ran = asof(
        "--repo", repo, "dataset", "--like", tmp_path / "parquet.parquet", "-o", tmp_path / "again.parquet", "--json"
    )
    assert (ran.code, ran.answer["identical"]) == (0, True), ran.err
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "parquet.parquet").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("dataset", "-o", "x.parquet"), 2, "expected SERVICE and --entities FILE, or --like FILE"),
        (("dataset", "fraud_v1", "--entities", "rows.parquet", "-o", "x.csv"), 2, "ends in .parquet"),
        (
            ("dataset", "fraud_v1", "--entities", "nowhere.parquet", "-o", "x.parquet"),
            3,
            "nowhere.parquet does not exist",
        ),
        (
            ("dataset", "fraud_v1", "--like", "x.parquet", "-o", "y.parquet"),
            2,
            "leave SERVICE, --entities and --at out",
        ),
    ],
)
def test_a_dataset_that_cannot_be_is_one_line(filled, tmp_path, monkeypatch, arguments, code, message):
    """A dataset without service or rows, with rows that are not there, or under a wrong name: one line, and no file."""
    repo, _ = filled
    monkeypatch.chdir(tmp_path)
    ran = asof("--repo", repo, *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1), ran
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_contract_is_compiled_again_when_a_function_changed(filled, tmp_path):
    """The remembered contract answers until the registry or a Python file of the repo changes."""
    repo, _ = filled
    other = copy(repo, tmp_path / "other")
    (other / "data").mkdir()
    shutil.copy(repo / "data" / "registry.db", other / "data")
    first = Repo.open(other).contract("fraud_v1")
    assert recall(Repo.open(other).settings, "fraud_v1") == first
    text = (other / "on_demand.py").read_text()
    (other / "on_demand.py").write_text(text.replace("m.hour < 6", "m.hour < 7"))
    assert recall(Repo.open(other).settings, "fraud_v1") is None
    lines = contract_changes(first, Repo.open(other).contract("fraud_v1"))
    assert [line.partition(":")[0] for line in lines] == ["on-demand payment_context"]


def test_plan_names_the_features_of_a_model_that_a_change_breaks(filled, tmp_path):
    """For each trained model: which of its features change, and what about them; models that fit are not listed."""
    repo, _ = filled
    changed = copy(repo, tmp_path / "changed")
    contract = Repo.open(repo).contract("fraud_v1")
    for version in ("1", "2"):
        with writing(changed / "data" / "models", "fraud", version) as folder:
            (folder / "contract.json").write_text(contract.to_json())
    assert broken_models(changed / "data" / "models", {"fraud_v1": contract}) == ((), 2)
    views = (changed / "views.py").read_text()
    (changed / "views.py").write_text(
        views.replace("source=fraud_reports_push,", "source=fraud_reports_push, ttl=timedelta(days=90),", 1)
    )
    (changed / "on_demand.py").write_text((changed / "on_demand.py").read_text().replace("m.hour < 6", "m.hour < 7"))
    ran = asof("--repo", changed, "plan", "--json")
    assert ran.code == 0, ran.err
    assert [(b["version"], b["newest"]) for b in ran.answer["broken"]] == [("1", False), ("2", True)]
    features = ran.answer["broken"][0]["features"]
    assert {name for name in features if name.startswith("terminal")} == {
        n for n in contract.feature_names if n.startswith("terminal")
    }
    assert features["terminal_reports_1d"] == ["ttl was none, is 90 days"]
    assert features["night"][0].startswith("function was on_demand:payment_context (")
    assert not [name for name in features if name.startswith("customer")]
    assert broken_models(changed / "data" / "models", {})[0][0].features["night"] == ("service fraud_v1 is gone",)


def test_an_event_that_is_pushed_twice_through_feast_counts_once_on_both_sides(filled):
    """Feast's own push, delivered twice, adds one row to the table and one event online."""
    import pandas as pd
    from feast.data_source import PushMode

    repo, _ = filled
    moment = pd.Timestamp("2018-07-24T10:00:00Z")
    row = {
        "transaction_id": 92_000_000,
        "tx_datetime": moment,
        "customer_id": 777_777,
        "terminal_id": 1,
        "tx_amount": 5.0,
    }
    frame = pd.DataFrame([{**row, "known_at": moment + pd.Timedelta(microseconds=1)}])
    store = Repo.open(repo).store
    rows = asof("--repo", repo, "tables", "--json").answer["tables"][1]["rows"]
    for _ in range(2):
        store.push("transactions_push", frame, to=PushMode.ONLINE_AND_OFFLINE)
    assert asof("--repo", repo, "tables", "--json").answer["tables"][1]["rows"] == rows + 1
    ran = asof(
        "--repo", repo, "get", "fraud_v1", "customer_id=777777", "terminal_id=1", "tx_amount=5", "--at", AT, "--json"
    )
    assert ran.answer["features"]["customer_payments_7d"] == {"value": 1, "status": "present"}


def test_what_is_no_longer_declared_is_removed(filled, tmp_path):
    """A view that left the files is planned and applied as removed, and the service's lost features are named."""
    repo, _ = filled
    smaller = copy(repo, tmp_path / "smaller")
    shutil.copytree(repo / "data", smaller / "data", ignore=shutil.ignore_patterns("redis", "tables", "quarantine"))
    views, services = ((smaller / f"{name}.py").read_text() for name in ("views", "services"))
    start, end = views.index("terminal_risk = "), views.index("customer_risk = ")
    (smaller / "views.py").write_text(views[:start] + views[end:])
    (smaller / "services.py").write_text(services.replace(", terminal_risk", ""))
    try:
        before = asof("--repo", smaller, "plan", "--json").answer["changes"]
        assert [(c["action"], c["name"]) for c in before] == [("change", "fraud_v1"), ("remove", "terminal_risk")]
        assert "feature terminal_reports_1d is gone" in before[0]["details"]
        assert asof("--repo", smaller, "apply", "--json").answer["changes"] == before
        assert asof("--repo", smaller, "plan", "--json").answer["changes"] == []
    finally:
        asof("--repo", smaller, "redis", "stop")


def test_no_payment_of_a_dataset_is_in_its_own_features(filled, payments_file, tmp_path):
    """Counts and maxima of a dataset are those of the customer's payments strictly before each row's moment."""
    repo, _ = filled
    every = pq.read_table(payments_file)
    rows = every.slice(12_000, 40)
    pq.write_table(rows, tmp_path / "rows.parquet")
    ran = asof(
        "--repo", repo, "dataset", "fraud_v1", "--entities", tmp_path / "rows.parquet", "-o", tmp_path / "out.parquet"
    )
    assert ran.code == 0, ran.err
    held = delta.open_table(repo / "data" / "tables" / "transactions")
    listed = delta.scan(held, ["customer_id", "tx_datetime", "tx_amount"]).to_pylist()  # other tests have added a few
    for row in pq.read_table(tmp_path / "out.parquet").to_pylist():
        start = row["tx_datetime"] - timedelta(days=7)
        known = [
            r["tx_amount"]
            for r in listed
            if r["customer_id"] == row["customer_id"] and start < r["tx_datetime"] < row["tx_datetime"]
        ]
        assert row["customer_payments_7d"] == len(known)
        assert row["customer_amount_max_7d"] == max(known, default=None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tables",),
        ("models",),
        ("get", "fraud_v1", "customer_id=1", "terminal_id=1", "tx_amount=5", "--at", AT),
        ("dataset", "fraud_v1", "--entities", "entities.csv", "-o", "made.parquet"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_after_apply_and_materialize_start_without_feast(filled, tmp_path, arguments):
    """What these commands need of the registry was cached while Feast was loaded; importing it would take a second."""
    repo, _ = filled
    (tmp_path / "entities.csv").write_text(f"customer_id,terminal_id,tx_amount,tx_datetime\n1,1,5.0,{AT}\n")
    code = (
        "import sys; from asof.cli import main; sys.argv = ['asof', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print('feast' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--repo", str(repo), *arguments], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
