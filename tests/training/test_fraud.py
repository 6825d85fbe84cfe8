"""The example's model, from files of payments to a bundle, on simulated payments and on the published ones where they are."""

from __future__ import annotations

import json
from dataclasses import replace

import duckdb
import pytest
from click.testing import CliRunner

from asof.bundle import Bundle
from asof.cli import cli
from asof.errors import AsofError, NotFoundError, UsageError
from asof.instants import DAY, parse_moment
from asof.tables import declarations
from asof.training import catalog, pipeline
from asof.training.dataset import Tables
from asof.training.split import GivenSpans

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model(applied):
    """The declaration."""
    return catalog.declared(applied).find("fraud")


@pytest.fixture(scope="module")
def honest(payments, model):
    """A run on what was known at the time."""
    material = pipeline.gather(payments.repo, model, given(payments))
    return material, pipeline.learn(material)[0]


def given(payments):
    """What the command line would fix."""
    return GivenSpans(test_start=parse_moment(payments.test_start) if payments.test_start else None)


def counted(file, start):
    """Rows and frauds of the training week that begins ``start`` and of the test week two weeks later, by the published words.

    Known on a test day: a fraud of the customer in the training week, or on a day from its end up to eight days before.
    """
    query = f"""
        SELECT (epoch_us(tx_datetime) - {start}) // {DAY} AS day, customer_id, tx_fraud FROM read_parquet('{file}')
        WHERE epoch_us(tx_datetime) >= {start} AND epoch_us(tx_datetime) < {start + 21 * DAY}
    """
    rows = duckdb.sql(query).fetchall()
    train = [fraud for day, _, fraud in rows if day < 7]
    test = []
    for today in range(14, 21):
        known = {customer for day, customer, fraud in rows if fraud and day <= max(6, today - 8)}
        test += [fraud for day, customer, fraud in rows if day == today and customer not in known]
    return len(train), sum(train), len(test), sum(test)


def test_the_split_is_the_published_one(payments, honest):
    """Rows and frauds of both weeks are those of the published definition, counted from the file without asof."""
    material, run = honest
    found = tuple(run.split[name] for name in ("train_rows", "train_positives", "test_rows", "test_positives"))

    assert found == counted(payments.file, material.spans.train_start)
    assert found == (67_240, 598, 58_264, 385) or not payments.published
    assert run.split["delay"] == "7 days"


def test_the_model_is_good_and_honest(payments, honest):
    """A model that saw nothing too soon has no leak found, and on the published week it reaches what it must."""
    _, run = honest

    assert run.leaks == ()
    assert run.figures["auc"].value > 0.75
    assert not run.missed or not payments.published


def test_labels_known_too_soon_give_themselves_away(payments, model, honest):
    """With the labels' knowledge time ignored the same model scores above .95 AUC, and the leak check says so."""
    contract = event_at_payment(payments.repo.contract(model.service))
    material = pipeline.assemble(Tables.open(payments.repo, model, contract), given(payments), knowledge=False)
    leaky, _ = pipeline.learn(material)

    assert leaky.figures["auc"].value > 0.95 > honest[1].figures["auc"].value
    assert {leak.kind for leak in leaky.leaks} == {"law", "suspicion"}
    assert any(
        leak.line.startswith("the test AUC is 0.9") or leak.line.startswith("the test AUC is 1") for leak in leaky.leaks
    )


def test_reports_without_delay_are_found(simulated, model, tmp_path):
    """Verdicts that are there a microsecond after the payment are found by their times, with the views that they enter."""
    contract = simulated.repo.contract(model.service)
    declared = declarations(simulated.repo)
    at_once(simulated.file, tmp_path / "reports.parquet")
    early = {"path": str(tmp_path / "reports.parquet"), "format": "parquet"}
    views = [
        replace(v, source=replace(v.source, **early)) if v.source.name == "fraud_reports" else v for v in contract.views
    ]
    reports = replace(declared.table("fraud_reports"), **early)
    tables = Tables.of(
        model, replace(contract, views=tuple(views)), simulated.repo.path, declared.table("transactions"), reports
    )
    run, _ = pipeline.learn(pipeline.assemble(tables))
    found = [leak.line for leak in run.leaks if leak.kind == "label delay"]

    assert "may be used sooner than 7 days after their event, the soonest after 1 microsecond" in found[0]
    assert "enter customer_risk, terminal_risk sooner than 7 days" in found[1]


def at_once(file, reports):
    """The verdicts of ``file`` as reports that are known a microsecond after the payment."""
    moment = "tx_datetime + INTERVAL 1 MICROSECOND"
    columns = (
        "transaction_id, tx_datetime, customer_id::BIGINT AS customer_id, terminal_id::BIGINT AS terminal_id, tx_fraud"
    )
    query = f"SELECT {columns}, {moment} AS reported_at, {moment} AS known_at FROM read_parquet('{file}')"
    duckdb.execute("SET TimeZone = 'UTC'")
    duckdb.sql(query).write_parquet(str(reports))


def event_at_payment(contract):
    """The contract with each verdict as an event at its payment: only its knowledge time still says that it came a week later."""
    views = [
        replace(v, source=replace(v.source, timestamp_field="tx_datetime")) if v.source.name == "fraud_reports" else v
        for v in contract.views
    ]
    return replace(contract, views=tuple(views))


def asof(repo, *arguments):
    """A verb run in this process: exit code and JSON answer."""
    done = CliRunner().invoke(cli, ["--repo", str(repo.path), "--json", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def strict(root, folder, text="thresholds={'auc': 0.9999}"):
    """A folder with the example's declaration, but thresholds out of reach."""
    folder.mkdir()
    own = (root / "feature_repo" / "models" / "fraud.py").read_text()
    line = next(part for part in own.splitlines() if part.strip().startswith("thresholds="))
    (folder / "fraud.py").write_text(own.replace(line.strip(), f"{text},"))
    return str(folder)


def test_a_missed_threshold_writes_no_bundle_unless_forced(root, simulated, tmp_path):
    """`asof train` ends with 1 and writes nothing when a threshold is missed, and with 0 and a bundle that says so under --force."""
    folder = strict(root, tmp_path / "strict")
    code, answer = asof(simulated.repo, "train", "fraud", "--models", folder)

    assert (code, answer["missed"], answer["bundle"]) == (1, ["auc"], None)
    assert asof(simulated.repo, "models") == (0, {"models": []})
    code, forced = asof(simulated.repo, "train", "fraud", "--models", folder, "--force")
    opened = Bundle.find(simulated.repo.settings.models, "fraud")

    assert code == 0
    assert (forced["bundle"], forced["booster_sha256"]) == (str(opened.path), answer["booster_sha256"])
    assert opened.metadata["metrics"]["auc"]["reached"] is False
    assert opened.metadata["tables"] == {"fraud_reports": 0, "transactions": 0}
    assert opened.metadata["rows"]["label_time"] == "reported_at"
    assert [p.name for p in opened.code.rglob("*.py")] == ["on_demand.py"]
    assert [m["version"] for m in asof(simulated.repo, "models", "fraud")[1]["models"]] == [opened.version]


def test_a_leak_ends_the_command_with_one(root, simulated, tmp_path):
    """`asof train` ends with 1 and writes nothing when the leak check finds something; --allow-leak goes on."""
    folder = strict(root, tmp_path / "late", "thresholds={}")
    late = (tmp_path / "late" / "fraud.py").read_text().replace('label_delay="7 days"', 'label_delay="8 days"')
    (tmp_path / "late" / "fraud.py").write_text(late.replace('name="fraud"', 'name="late"'))
    code, answer = asof(simulated.repo, "train", "late", "--models", folder)
    allowed, _ = asof(simulated.repo, "train", "late", "--models", folder, "--allow-leak")

    assert (code, answer["bundle"], allowed) == (1, None, 0)
    assert {leak["kind"] for leak in answer["leaks"]} == {"label delay"}
    assert "sooner than 8 days after their event, the soonest after 7 days" in answer["leaks"][0]["line"]


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        (["train", "fruad"], NotFoundError, "did you mean 'fraud'"),
        (["train", "fraud", "--test-start", "next week"], UsageError, "ISO 8601"),
        (["train", "fraud", "--test-start", "2031-01-01"], UsageError, "labelled rows lie between 2018-06-01"),
        (["train", "fraud", "--models", "/nowhere"], UsageError, "is no folder"),
        (["models", "churn"], NotFoundError, "no trained model named 'churn'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_two(simulated, arguments, error, problem):
    """A mistyped model, a time that is none, a span without rows: one line that says what was expected, exit code 2."""
    with pytest.raises(error, match=problem) as caught:
        asof(simulated.repo, *arguments)

    assert isinstance(caught.value, AsofError)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_the_answer_for_people_names_the_split_the_figures_and_the_bundle(root, simulated, tmp_path):
    """Without --json, `asof train` prints spans, figures with intervals and thresholds, the leak check, and why nothing was written."""
    folder = strict(root, tmp_path / "strict")
    done = CliRunner().invoke(cli, ["--repo", str(simulated.repo.path), "train", "fraud", "--models", folder])

    assert done.exit_code == 1
    for words in (
        "train",
        "gap",
        "test",
        "auc",
        "card_precision@100",
        "MISSED",
        "leak check: nothing found",
        "--force",
    ):
        assert words in done.output
