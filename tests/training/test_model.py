"""Declarations: what they may say, and where they are found."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from asof.errors import AsofError, NotFoundError, SettingsError
from asof.task import Multiclass, Quantiles, Regression
from asof.training import catalog
from asof.training.model import Decision, Fit, LabelledRows, Metric, Model, Split
from tests.training.machines import MODEL

DECLARATION = """
from asof.training.model import LabelledRows, Model

churn = Model(name={name!r}, service="churn_v1",
              rows=LabelledRows(table="visits", event_time="at", id="visit_id", keys=("visitor",), label="left"))
"""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": "Break Down"}, "lower-case identifier"),
        ({"task": "ranking"}, "task 'ranking', expected Binary"),
        ({"metrics": (Metric("rmse"),)}, "metric 'rmse', expected one of a binary task: auc"),
        ({"task": Regression(), "metrics": ()}, "a decision and a regression task"),
        (
            {"task": Quantiles(), "metrics": (Metric("auc"),), "decision": None},
            "metric 'auc', expected one of a quantiles task: pinball_loss",
        ),
        ({"label_delay": "soon"}, "span 'soon'"),
        ({"split": Split(train="7 lightyears")}, "span '7 lightyears'"),
        ({"split": Split(leave_out_known="factory_id")}, "'factory_id' is used as a key"),
        ({"fit": Fit(rounds=0)}, "0 rounds"),
        ({"thresholds": {"accuracy": 0.9}}, "threshold for 'accuracy'"),
        ({"metrics": (Metric("auc"), Metric("auc"))}, "share a name"),
        ({"unit": None}, "expected unit='machine_id'"),
    ],
)
def test_wrong_declarations_are_refused_in_one_line(change, problem):
    """A declaration that cannot be kept is refused when it is made, in one line that names the model."""
    with pytest.raises(SettingsError, match=problem) as caught:
        replace(MODEL, **change)

    assert str(caught.value).startswith("model ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Metric("brier"), "metric 'brier', expected one of auc"),
        (lambda: Regression("huber"), "loss 'huber', expected one of squared"),
        (lambda: Regression("tweedie", power=2.5), "power 2.5"),
        (lambda: Quantiles((0.9, 0.1)), "rising numbers between 0 and 1"),
        (lambda: Multiclass(("a", "a")), "expected each once"),
        (lambda: Metric("precision_at", k=10), "needs k"),
        (lambda: Decision("guess"), "rule 'guess'"),
        (lambda: Decision("share", 2), "between 0 and 1"),
    ],
)
def test_wrong_parts_are_refused(make, problem):
    """A metric or a decision rule that does not exist is refused by name."""
    with pytest.raises(SettingsError, match=problem):
        make()


def test_only_name_service_and_rows_are_needed():
    """A model needs no split, delay, exclusion, threshold or parameter."""
    rows = LabelledRows(table="visits", event_time="at", id="visit_id", keys=("visitor",), label="left")
    model = Model(name="churn", service="churn_v1", rows=rows)

    assert (model.delay, model.split, dict(model.thresholds)) == (0, Split(), {})
    assert [m.name for m in model.metrics] == ["auc", "average_precision", "log_loss"]


def test_models_are_found_in_two_places(tmp_path):
    """Models come from the repo and from a named folder, which wins; nothing else is in the list."""
    for folder, name in ((tmp_path / "repo" / "models", "churn"), (tmp_path / "extra", "churn")):
        folder.mkdir(parents=True)
        (folder / "churn.py").write_text(DECLARATION.format(name=name).replace("visits", folder.name))
    found = catalog.declared(tmp_path / "repo", tmp_path / "extra")

    assert set(found.models) == {"churn"}
    assert found.find("churn").rows.table == "extra"
    assert catalog.declared(tmp_path / "repo").find("churn").rows.table == "models"
    assert catalog.declared(tmp_path / "other").models == {}


def test_an_unknown_model_is_answered_with_the_closest(root):
    """Asking for a model that nobody declared names the one that was probably meant."""
    with pytest.raises(NotFoundError, match="did you mean 'fraud'"):
        catalog.declared(root / "feature_repo").find("fraude")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("def (", "SyntaxError"),
        ("exit('no')", "SystemExit"),
        (DECLARATION.format(name="Not A Name"), "lower-case identifier"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, text, problem):
    """A file that fails is named in one line with the reason where its model is asked for; models of other files are found."""
    (tmp_path / "broken.py").write_text(text)
    (tmp_path / "whole.py").write_text(DECLARATION.format(name="churn"))
    known = catalog.declared(tmp_path / "repo", tmp_path)

    assert known.find("churn").service == "churn_v1"
    with pytest.raises(AsofError, match=problem) as caught:
        known.find("other")

    assert "broken.py" in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_files_import_their_siblings(tmp_path, monkeypatch):
    """A file imports another of its folder by name or below ``models``; two repos in one process do not mix; nothing is left behind."""
    (tmp_path / "opened" / "models").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "opened")  # a repo that this process has opened
    for place in ("one", "two"):
        folder = tmp_path / place / "models"
        folder.mkdir(parents=True)
        (folder / "prepared.py").write_text(f"TABLE = '{place}'")
        (folder / "churn.py").write_text(
            "from models.prepared import TABLE\nimport prepared\nassert prepared.TABLE == TABLE\n"
            + DECLARATION.format(name="churn").replace("'visits'", "TABLE").replace('"visits"', "TABLE")
        )
    before, searched = set(sys.modules), list(sys.path)

    assert [catalog.declared(tmp_path / p).find("churn").rows.table for p in ("one", "two")] == ["one", "two"]
    assert not {"prepared", "models", "models.prepared"} & (set(sys.modules) - before)
    assert sys.path == searched


def test_two_files_with_one_name_are_refused(tmp_path):
    """Two files of a folder that declare different models under one name are refused, a folder that is none as well."""
    (tmp_path / "one.py").write_text(DECLARATION.format(name="churn"))
    (tmp_path / "two.py").write_text(DECLARATION.format(name="churn").replace("visits", "calls"))
    with pytest.raises(SettingsError, match="another file"):
        catalog.declared(tmp_path / "repo", tmp_path)
    with pytest.raises(SettingsError, match="no folder"):
        catalog.declared(tmp_path / "repo", tmp_path / "one.py")


def test_declarations_in_the_documents_are_read(root, tmp_path):
    """The declarations that the documents show are read as they stand."""
    blocks = (root / "docs" / "training.md").read_text().split("```python\n")[1:]
    for position, block in enumerate(blocks):
        (tmp_path / f"documented_{position}.py").write_text(block.split("```")[0])
    found = catalog.declared(tmp_path / "repo", tmp_path)

    assert (len(blocks), found.unreadable) == (2, [])
    assert found.find("churn").service == "churn_v1"
    assert found.find("delay").task == Quantiles((0.1, 0.5, 0.9))
