"""The examples: each runs through the whole loop on a slice of its data, and a run says what was not as it must be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from asof.commands.demo_workspace import DemoStep, DemoWorkspace
from asof.errors import SettingsError, UsageError
from examples import loop
from examples.loop import Example, Outcome, names

STEPS = [
    *("prepare", "apply", "ingest", "dataset", "train", "build", "materialize"),
    *("serve", "replay", "skew", "profile", "drift", "performance"),
]

OURS = re.compile(r"^(?:from|import) ((?:asof|examples|tests)\b\S*)", re.MULTILINE)
"""An import from this project."""


@pytest.mark.parametrize("name", names())
def test_an_example_runs_through_the_whole_loop(name: str, root: Path, tmp_path: Path) -> None:
    """On a slice of an example's data no served value differs, every row of every source is fed, drift and performance are judged."""
    into = tmp_path / "my répo & co"
    command = [sys.executable, "-m", "examples", name, "--small", "--into", str(into), "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    (outcome,) = json.loads(done.stdout)["examples"]

    assert [step["name"] for step in outcome["steps"]] == STEPS
    assert (outcome["mismatches"], outcome["problems"]) == (0, [])
    assert outcome["compared"] >= outcome["predictions"] > 0
    assert set(outcome["fed"]) == set(Example.load(name).known)
    assert outcome["drift"]
    assert outcome["performance"]


@pytest.mark.parametrize("name", names())
def test_an_example_is_a_folder_of_its_own(name: str, root: Path) -> None:
    """An example has a README and what a user would write, and imports nothing of this project but what models are declared with."""
    folder = root / "examples" / name
    assert {p.name for p in folder.iterdir()} - {"__pycache__"} == {
        "README.md", "example.toml", "feature_repo", "prepare.py",
    }  # fmt: skip
    texts = {str(p): p.read_text() for p in folder.rglob("*.py")}
    assert texts
    assert not [path for path, text in texts.items() if "pickle" in text]
    imported = {module for text in texts.values() for module in OURS.findall(text)}
    assert imported <= {"asof.training.model"}
    assert f"[{name}]({name}/README.md)" in (root / "examples" / "README.md").read_text()


def test_an_unknown_example_is_refused() -> None:
    """The error for an unknown name lists the examples."""
    with pytest.raises(UsageError, match=r"there is no example 'trains'; there are .*flights"):
        Example.load("trains")


def test_an_example_file_with_other_keys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example.toml with a missing key is named, with the keys that it should have."""
    monkeypatch.setattr(loop, "HERE", tmp_path)
    (tmp_path / "boats").mkdir()
    (tmp_path / "boats" / "example.toml").write_text('model = "m"\n')

    with pytest.raises(SettingsError, match=r"boats/example.toml: expected the keys model, service, "):
        Example.load("boats")


ANSWERS = {
    "replay": {
        "answered": 2, "pushed": {"schedule": 2, "landings": 1}, "rows_per_second": 1.0,
        "not_fed": {"weather": "it has no rows"}, "latency_ms": {"p50": 1.0},
    },
    "skew": {"rows": 1, "mismatches": 3, "summary": "", "features": [{"recomputed": 9}]},
    "drift": {"columns": [{"verdict": "too few rows"}], "summary": ""},
    "performance": {"figures": [], "summary": ""},
    "profile": {"profiles": []},
}  # fmt: skip


def test_a_run_names_what_is_not_as_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were not fed, values that differ or were not compared, and what was not judged are problems of the run."""
    tables = {"schedule": 2, "landings": 2, "weather": 0}
    (tmp_path / "live").mkdir()
    for table, rows in tables.items():
        pl.DataFrame({"x": range(rows)}).write_parquet(tmp_path / "live" / f"{table}.parquet")
    span = {"start": "2024-01-01", "end": "2024-01-02"}
    example = Example(
        folder=tmp_path, model="m", service="s", scored="schedule", at="x", known=dict.fromkeys(tables, "x"),
        full=span, small=span,
    )  # fmt: skip
    workspace = DemoWorkspace(tmp_path, total=5)
    monkeypatch.setattr(workspace, "asof", lambda verb, *_: ANSWERS[verb])
    steps = loop.Loop(example, workspace, small=True, outcome=Outcome("boats"))
    steps.replay(DemoStep("replay"), "http://127.0.0.1:1")
    for step in ("skew", "profile", "drift", "performance"):
        getattr(steps, step)(DemoStep(step))

    assert steps.outcome.problems == [
        "replay: source weather was not fed: it has no rows",
        "replay: 1 of the 2 rows of landings were fed",
        "replay: 0 of the 0 rows of weather were fed",
        "skew: 3 of 9 values differ",
        "skew: not every served value was compared",
        "profile: nothing was profiled",
        "drift: no column was judged",
        "performance: no metric was judged",
    ]
