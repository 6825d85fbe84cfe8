"""Declarations: what they may say, and where they are found."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from asof.errors import AsofError, NotFoundError, SettingsError
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
        ({"objective": "ranking"}, "objective 'ranking', expected one of binary"),
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
        (lambda: Metric("accuracy"), "metric 'accuracy', expected one of auc"),
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


def test_the_declaration_in_the_documents_is_one(root, tmp_path):
    """The smallest declaration that the documents show is read as it stands."""
    blocks = (root / "docs" / "training.md").read_text().split("```python\n")[1:]
    (tmp_path / "documented.py").write_text(blocks[0].split("```")[0])

    assert len(blocks) == 1
    assert catalog.declared(tmp_path / "repo", tmp_path).find("churn").service == "churn_v1"
