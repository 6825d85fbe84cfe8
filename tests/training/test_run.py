"""A run on tables without Feast: labelled rows, features, leaks, and the bundle."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import duckdb
import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asof import feature_vectors
from asof.bundle import Bundle
from asof.contract import Feature, Field
from asof.errors import AsofError, BundleError, SchemaError, SettingsError, SourceError
from asof.instants import DAY
from asof.settings import OnlineSettings, RepoSettings
from asof.statistics import histograms, profiles
from asof.training import pipeline
from asof.training.dataset import Tables, matrix
from asof.training.model import LabelledRows, Split, Suspicion
from asof.training.verbs import TrainedModel
from tests.training import machines
from tests.training.machines import CONTRACT, MODEL, READINGS

OTHER_PROCESS = """
import sys
from pathlib import Path
from tests.training import machines
from asof.training import pipeline
print(pipeline.learn(pipeline.assemble(machines.tables(Path(sys.argv[1]))))[0].digest)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both tables."""
    made = tmp_path_factory.mktemp("machines")
    machines.write(made)
    return made


@pytest.fixture(scope="module")
def material(folder):
    """What a run learns from."""
    return pipeline.assemble(machines.tables(folder))


@pytest.fixture(scope="module")
def learned(material):
    """A run and its reference."""
    return pipeline.learn(material)


def rewrite(folder, table, change):
    """Change a table's file with SQL: ``change`` is what is selected from it."""
    file = folder / f"{table}.parquet"
    pq.write_table(duckdb.sql(f"SELECT {change} FROM read_parquet('{file}')").to_arrow_table(), folder / "new.parquet")
    (folder / "new.parquet").rename(file)


def test_a_model_learns_from_a_view_used_twice(tmp_path):
    """Both uses of one view are columns of the model, under their full names and by their own keys."""
    machines.write(tmp_path)
    rewrite(tmp_path, "readings", "*, (machine_id + 1) % 60 AS other_id")
    load = CONTRACT.views[0]
    uses = (
        replace(load, alias="own"),
        replace(load, alias="other", join_keys=(replace(load.join_keys[0], request="other_id"),)),
    )
    features = tuple(Feature(f"{v.alias}__{f.name}", v.alias, f.name, f.dtype) for v in uses for f in v.features)
    contract = replace(CONTRACT, features=features, views=uses)
    model = replace(MODEL, rows=replace(MODEL.rows, keys=("machine_id", "other_id")))
    material = pipeline.assemble(machines.tables(tmp_path, model, contract))
    run, _ = pipeline.learn(material)
    assert run.names == contract.feature_names
    assert (run.fitted.predict(np.full((1, len(features)), np.nan)) >= 0).all()


def test_labelled_rows_are_joined_by_id(folder, material):
    """Every row of the spans that has a label is there once, in the order of time, with the label's own time."""
    query = f"""
        SELECT r.reading_id, epoch_us(r.read_at) AS moment, f.fault, epoch_us(f.found_at) AS found
        FROM '{folder}/readings.parquet' r JOIN '{folder}/faults.parquet' f ON r.reading_id = f.reading_id
        WHERE moment >= {material.spans.train_start} AND moment < {material.spans.test_end} ORDER BY moment, r.reading_id
    """
    expected = duckdb.sql(query).to_arrow_table().to_pydict()

    assert material.labelled.rows["reading_id"].to_pylist() == expected["reading_id"]
    assert material.labelled.label.tolist() == expected["fault"]
    assert material.labelled.usable.tolist() == expected["found"]
    assert material.labelled.seen.tolist() == expected["found"]


def test_nothing_learned_was_unknown_when_the_test_span_began(material):
    """No label that teaches was found after the test span began, and the gap is as long as the delay."""
    parts, labelled = material.parts, material.labelled

    assert (labelled.usable[parts.train] <= material.spans.test_start).all()
    assert material.spans.test_start - material.spans.train_end == MODEL.delay
    assert min(parts.train.sum(), parts.gap.sum(), parts.test.sum()) > 0


def test_features_ignore_what_was_not_known(folder, material):
    """A feature equals the count of faults found before the reading, followed row by row."""
    faults = pq.read_table(folder / "faults.parquet")
    found, who, fault = (faults[c].to_numpy() for c in ("found_at", "machine_id", "fault"))
    found = found.astype("datetime64[us]").astype(np.int64)
    for i in range(0, len(material.labelled), 97):
        at, machine = material.labelled.time[i], material.labelled.rows["machine_id"][i].as_py()
        inside = (who == machine) & (found > at - 5 * DAY) & (found <= at)

        assert material.features["faults_sum_5d"][i].as_py() == fault[inside].sum()


def test_equal_tables_give_equal_bytes_in_another_process(folder, learned, root):
    """A whole run, repeated in another process on the same tables, writes the same booster byte for byte."""
    other = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(folder)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout.strip()

    assert other == learned[0].digest


def test_an_honest_run_is_not_suspected(learned):
    """The leak check finds nothing in a run that saw nothing too soon, and the model is good all the same."""
    run, _ = learned

    assert run.leaks == ()
    assert run.figures["auc"].value > 0.6


def test_knowledge_time_ignored_is_found(folder, learned):
    """With the labels' knowledge time ignored the model looks far better, and the leak check says so twice."""
    contract = machines.event_at_reading(CONTRACT)
    strict = replace(MODEL, suspicion=Suspicion(auc=0.95, feature_auc=0.95))
    honest, _ = pipeline.learn(pipeline.assemble(machines.tables(folder, strict, contract)))
    leaky, _ = pipeline.learn(pipeline.assemble(machines.tables(folder, strict, contract), knowledge=False))

    assert honest.leaks == ()
    assert leaky.figures["auc"].value > max(0.95, honest.figures["auc"].value)
    assert {leak.kind for leak in leaky.leaks} == {"law", "suspicion"}
    assert "computed again with knowledge time on: faults_" in next(k.line for k in leaky.leaks if k.kind == "law")


def test_labels_that_come_too_soon_are_found(tmp_path):
    """Labels that are usable, or enter a window, sooner than declared are counted, with the soonest and the place to look."""
    machines.write(tmp_path, delay_us=DAY)
    found = pipeline.learn(pipeline.assemble(machines.tables(tmp_path)))[0].leaks
    lines = [leak.line for leak in found if leak.kind == "label delay"]

    assert len(lines) == 2
    assert "may be used sooner than 2 days after their event, the soonest after 1 day" in lines[0]
    assert "enter faults sooner than 2 days" in lines[1]
    assert not any("\n" in leak.line for leak in found)


def test_the_soonest_label_is_told_in_units_that_people_read(tmp_path):
    """A label 28 minutes and a microsecond after its event is "about 28 minutes" after it, not 1680000001 microseconds."""
    machines.write(tmp_path, delay_us=1_680_000_001)
    found = pipeline.learn(pipeline.assemble(machines.tables(tmp_path)))[0].leaks

    assert any("the soonest after about 28 minutes; look" in leak.line for leak in found)


def test_an_own_label_in_a_window_is_found(tmp_path):
    """A label that is known at its row's own moment is found, and what it is worth shows in the score."""
    machines.write(tmp_path, delay_us=0)
    strict = replace(MODEL, suspicion=Suspicion(auc=0.95, feature_auc=0.95))
    leaks = pipeline.learn(pipeline.assemble(machines.tables(tmp_path, strict)))[0].leaks

    assert {"own label", "label delay", "suspicion"} <= {leak.kind for leak in leaks}
    assert any("alone has an AUC of" in leak.line or "the test AUC is" in leak.line for leak in leaks)


def test_a_label_in_the_rows_own_table_needs_no_second_table(tmp_path):
    """A model whose label is a column of its rows has labels usable after the declared delay, and without one at once."""
    machines.write(tmp_path)
    columns = "r.*, (SELECT f.fault FROM 'FOLDER/faults.parquet' f WHERE f.reading_id = r.reading_id) AS fault"
    file = tmp_path / "readings.parquet"
    table = duckdb.sql(f"SELECT {columns.replace('FOLDER', str(tmp_path))} FROM '{file}' r").to_arrow_table()
    pq.write_table(table, file)
    rows = LabelledRows(table="readings", event_time="read_at", id="reading_id", keys=("machine_id",), label="fault")
    for delay, wait in (("2 days", 2 * DAY), ("0 days", 0)):
        model = replace(MODEL, rows=rows, label_delay=delay, split=Split(test="4 days"))
        found = pipeline.assemble(Tables.of(model, CONTRACT, tmp_path, READINGS, READINGS))

        assert (found.labelled.usable - found.labelled.time == wait).all()
        assert found.spans.test_start - found.spans.train_end == wait
        assert pipeline.learn(found)[0].leaks == ()


@pytest.mark.parametrize(
    ("table", "change", "problem"),
    [
        ("faults", "* REPLACE (fault * 2 AS fault)", "neither 0 nor 1"),
        ("faults", "* REPLACE ('yes' AS fault)", "neither 0 nor 1"),
        ("faults", "* REPLACE (reading_id // 2 AS reading_id)", "several rows for one 'reading_id'"),
        ("faults", "* EXCLUDE (fault)", "reads column 'fault' of table 'faults'"),
        ("faults", "* REPLACE (NULL::TINYINT AS fault)", "has a label in 'faults'"),
        ("faults", "* REPLACE (reading_id + 1000000 AS reading_id)", "has a label in 'faults'"),
        ("readings", "* EXCLUDE (machine_id)", "machine_id"),
        ("readings", "* REPLACE (load AS read_at)", "cannot be read"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(tmp_path, table, change, problem):
    """Labels that are none, ids that are not unique, columns that are missing: each is refused before any feature is computed."""
    machines.write(tmp_path)
    rewrite(tmp_path, table, change)
    with pytest.raises((SchemaError, SourceError), match=problem) as caught:
        pipeline.assemble(machines.tables(tmp_path))

    assert "\n" not in str(caught.value)


def test_a_missing_label_is_no_label(tmp_path, folder):
    """A row whose label is null or NaN is not labelled, and a row without a key is an entity of its own kind."""
    machines.write(tmp_path)
    rewrite(
        tmp_path,
        "faults",
        "* REPLACE (CASE reading_id % 5 WHEN 0 THEN NULL WHEN 1 THEN 'NaN'::DOUBLE ELSE fault END AS fault)",
    )
    rewrite(
        tmp_path, "readings", "* REPLACE (CASE WHEN reading_id % 7 = 2 THEN NULL ELSE machine_id END AS machine_id)"
    )
    spans = pipeline.assemble(machines.tables(folder)).spans
    labelled = machines.tables(tmp_path).labelled(spans.train_start, spans.test_end)
    ids, keys = (labelled.rows[name].to_numpy(zero_copy_only=False) for name in ("reading_id", "machine_id"))
    codes = labelled.codes("machine_id")

    assert set(ids % 5) == {2, 3, 4}
    assert (np.unique(codes) == np.arange(machines.MACHINES + 1)).all()
    assert (np.isnan(keys) == (codes == machines.MACHINES)).all()


def test_missing_and_empty_tables_are_refused(tmp_path):
    """A table without a file or without rows is refused by name, and so are keys that the service needs and the model lacks."""
    with pytest.raises(SourceError, match="readings"):
        machines.tables(tmp_path)
    machines.write(tmp_path)
    full = pq.read_table(tmp_path / "faults.parquet")
    pq.write_table(full.slice(0, 0), tmp_path / "faults.parquet")
    with pytest.raises(SourceError, match="table 'faults' has no rows"):
        machines.tables(tmp_path)
    pq.write_table(full, tmp_path / "faults.parquet")
    keyless = replace(MODEL, rows=replace(MODEL.rows, keys=()), unit=None, split=Split(), metrics=MODEL.metrics[:3])
    with pytest.raises(SettingsError, match="names the keys none, but service 'breakdown_v1' needs 'machine_id'"):
        machines.tables(tmp_path, keyless)


def repo_at(path):
    """What saving a run needs of a repo at ``path``."""
    settings = RepoSettings(path, "machines", OnlineSettings("embedded", path / "redis"))
    return SimpleNamespace(path=path, settings=settings)


def test_a_bundle_holds_everything_and_predicts_the_same(folder, learned, tmp_path):
    """The bundle opens, verifies, names the agreed facts, and its booster scores as the run's did."""
    run, reference = learned
    repo = repo_at(tmp_path)
    written = pipeline.save(run, reference, repo)
    opened = Bundle.find(repo.settings.models, "breakdown")
    facts = opened.metadata
    assert facts["tables"] == {}
    assert facts["files"] == {
        name: hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest() for name in ("faults", "readings")
    }
    rows = np.random.default_rng(0).normal(20, 10, (50, len(run.names)))
    booster = lightgbm.Booster(model_file=str(opened.booster_files[0]))

    assert opened.path == written.path
    assert opened.contract == CONTRACT
    assert facts["features"] == list(CONTRACT.feature_names) == booster.feature_name()
    assert np.array_equal(booster.predict(rows, num_threads=1), run.fitted.predict(rows)[:, 0])
    assert facts["rows"] == {
        "table": "readings", "event_time": "read_at", "id": "reading_id", "keys": ["machine_id"],
        "label": "fault", "label_table": "faults", "label_time": "found_at",
    }  # fmt: skip
    assert facts["fingerprint"] == CONTRACT.fingerprint
    assert facts["booster_sha256"] == hashlib.sha256(opened.booster_files[0].read_bytes()).hexdigest()
    assert set(facts["metrics"]["auc"]) == {"value", "low", "high", "threshold", "reached"}
    assert facts["split"]["train_rows"] == opened.reference["features"]["rows"]
    assert histograms.count(opened.reference["score"], {"score": np.array([0.5])})["rows"] == 1
    assert profiles.read(opened.profile_file).get_column("load_mean_5d") is not None


def test_features_that_do_not_enter_the_model_are_named(tmp_path):
    """Texts and moments of a service are left out of the matrix, and the run, its text and its bundle name them."""
    machines.write(tmp_path)
    rewrite(tmp_path, "readings", "*, 'site ' || (machine_id % 3) AS site")
    place = replace(
        CONTRACT.views[0],
        name="place", alias="place", features=(Field("site", "string"), Field("known_at", "timestamp")), aggregations=(),
    )  # fmt: skip
    more = tuple(Feature(f.name, "place", f.name, f.dtype) for f in place.features)
    contract = replace(CONTRACT, features=(*CONTRACT.features, *more), views=(*CONTRACT.views, place))
    run, reference = pipeline.learn(pipeline.assemble(machines.tables(tmp_path, contract=contract)))
    repo = repo_at(tmp_path)

    assert run.names == CONTRACT.feature_names
    assert run.unused == {"site": "string", "known_at": "timestamp"}
    assert (
        f"2 of {len(contract.features)} features not used: site (string), known_at (timestamp); only numbers"
        in TrainedModel(run, None).to_text()
    )
    assert pipeline.save(run, reference, repo).metadata["unused"] == run.unused


def test_categories_are_learned_and_their_values_frozen(tmp_path):
    """A text declared as a category enters the matrix as its place among the training rows' values; other values are missing."""
    machines.write(tmp_path)
    rewrite(
        tmp_path,
        "readings",
        "*, CASE WHEN machine_id % 3 = 0 THEN 'Süd, \"2\"' ELSE 'site ' || (machine_id % 3) END AS site",
    )
    place = replace(
        CONTRACT.views[0],
        name="place", alias="place", features=(Field("site", "string"),), aggregations=(),
    )  # fmt: skip
    contract = replace(
        CONTRACT,
        features=(*CONTRACT.features, Feature("site", "place", "site", "string")),
        views=(*CONTRACT.views, place),
    )
    model = replace(MODEL, categories=("site",))
    material = pipeline.assemble(machines.tables(tmp_path, model, contract=contract))
    run, reference = pipeline.learn(material)
    repo = repo_at(tmp_path)
    bundle = pipeline.save(run, reference, repo)
    sites = material.features["site"].filter(pa.array(material.parts.train)).to_pylist()
    counted = sorted({s for s in sites if s is not None}, key=lambda s: (-sites.count(s), s))

    assert run.unused == {}
    assert bundle.metadata["categories"] == {"site": counted}
    columns = {name: [1.0, 1.0, 1.0] for name in CONTRACT.feature_names} | {"site": [counted[1], "elsewhere", None]}
    served = feature_vectors.matrix(contract, columns, bundle.metadata["features"], bundle.vocabularies)
    assert served[:, -1].tolist() == pytest.approx([1, np.nan, np.nan], nan_ok=True)
    names, values = matrix(contract, material.features, bundle.vocabularies)
    again = {name: material.features[name].to_pylist() for name in contract.feature_names}
    assert names == tuple(bundle.metadata["features"])
    assert np.array_equal(values, feature_vectors.matrix(contract, again, names, bundle.vocabularies), equal_nan=True)


@pytest.mark.parametrize(
    ("name", "problem"), [("sites", "did you mean"), ("known_at", "of type timestamp as a category")]
)
def test_categories_that_are_none_are_refused(tmp_path, name, problem):
    """A category that the service lacks, or of another type than text, whole number or boolean, is refused by name."""
    machines.write(tmp_path)
    place = replace(
        CONTRACT.views[0],
        name="place", alias="place", features=(Field("site", "string"), Field("known_at", "timestamp")), aggregations=(),
    )  # fmt: skip
    more = tuple(Feature(f.name, "place", f.name, f.dtype) for f in place.features)
    contract = replace(CONTRACT, features=(*CONTRACT.features, *more), views=(*CONTRACT.views, place))
    with pytest.raises(AsofError, match=problem):
        machines.tables(tmp_path, replace(MODEL, categories=(name,)), contract=contract)


def test_scores_of_the_reference_are_of_rows_that_did_not_teach(material, learned):
    """Reference scores are the booster's scores of the rows between the spans, reference features those of the training rows."""
    run, reference = learned
    _, values = matrix(CONTRACT, material.features)

    assert np.array_equal(reference.outputs, run.fitted.predict(values[material.parts.gap]))
    assert reference.features.equals(material.features.filter(pa.array(material.parts.train)))


def test_a_version_is_written_once(learned, tmp_path, monkeypatch):
    """A second bundle of the same second is refused, and what was there stays as it was."""
    from asof.training import publish

    moment = publish.datetime.now(publish.UTC)
    monkeypatch.setattr(publish, "datetime", SimpleNamespace(now=lambda _: moment))
    repo = repo_at(tmp_path)
    first = pipeline.save(*learned, repo)
    with pytest.raises(BundleError, match="versions never change"):
        pipeline.save(*learned, repo)

    assert Bundle.open(first.path).metadata["version"] == first.path.name
    assert json.loads((first.path / "manifest.json").read_text())["files"]
