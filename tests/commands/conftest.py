"""One applied, filled and materialized copy of the feature repo, and the command line in this process."""

import contextlib
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from asof.cli import main

DEFINITIONS = ("*.py", ".feastignore", "feature_store.yaml")


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def answer(self):
        """Its JSON."""
        return json.loads(self.out)


def asof(*arguments):
    """Run the command line in this process."""
    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["asof", *map(str, arguments)]
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = before
    return Ran(code, out.getvalue(), err.getvalue())


def copy(source: Path, target: Path) -> Path:
    """The definitions of a repo, without its data."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in DEFINITIONS:
        for file in source.glob(pattern):
            shutil.copy(file, target)
    return target


@pytest.fixture(scope="session")
def payments_file(tmp_path_factory):
    """60 days of simulated payments of 300 customers from 2018-06-01."""
    return tmp_path_factory.mktemp("simulated") / "payments.parquet"


@pytest.fixture(scope="session")
def filled(tmp_path_factory, root, payments_file):
    """The feature repo with everything applied, ingested and materialized up to 2018-07-25, and what each step said."""
    repo = copy(root / "feature_repo", tmp_path_factory.mktemp("filled") / "repo")
    simulated = ("--customers", 300, "--terminals", 600, "--days", 60, "--seed", 3, "--start", "2018-06-01")
    steps = {
        "plan": ("plan",),
        "early": ("tables",),
        "apply": ("apply",),
        "planned again": ("plan",),
        "simulate": ("simulate", *simulated, "-o", payments_file),
        "ingest": ("ingest", "transactions", payments_file),
        "ingest reports": ("ingest", "fraud_reports", payments_file),
        "materialize": ("materialize", "--to", "2018-07-25"),
    }
    said = {}
    try:
        for name, arguments in steps.items():
            said[name] = asof("--repo", repo, *arguments, "--json")
        yield repo, said
    finally:
        asof("--repo", repo, "redis", "stop")
