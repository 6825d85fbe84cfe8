"""The example's feature repo, applied once and filled twice: with simulated payments, and with the published ones where they are.

The published file is never part of the project. It is looked for at ``$ASOF_CARDS``, then beside the project's folder; without it, every
law is tested on simulated payments alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from asof.repo import Repo

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = Path(os.environ.get("ASOF_CARDS") or ROOT.parent / "shared" / "data" / "card_transactions.parquet")
SETTINGS = """
project: fraud
registry: data/registry.db
provider: local
offline_store:
  type: asof.offline.DuckDBOfflineStore
online_store:
  type: sqlite
  path: data/online.db
entity_key_serialization_version: 3
"""
"""As the example's own, but without a Redis: nothing here is served."""


@dataclass(frozen=True)
class Payments:
    """A filled repo.

    Attributes:
        file: The payments as they came.
        repo: The repo that they were ingested into.
        published: Whether they are the published ones.
        test_start: First day of the test week; None for the week that the data ends with.
    """

    file: Path
    repo: Repo
    published: bool
    test_start: str | None


@pytest.fixture(scope="session")
def applied(tmp_path_factory) -> Path:
    """A copy of the example's feature repo whose definitions are applied, without data."""
    from asof.feast.apply import apply

    folder = tmp_path_factory.mktemp("example") / "feature_repo"
    shutil.copytree(ROOT / "feature_repo", folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (folder / "feature_store.yaml").write_text(SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apply(Repo.open(folder))
    return folder


@pytest.fixture(scope="session")
def simulated(applied, tmp_path_factory) -> Payments:
    """Ten simulated weeks, ingested."""
    file = tmp_path_factory.mktemp("simulated") / "payments.parquet"
    spec = importlib.util.spec_from_file_location("simulate_for_training", applied / "simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pq.write_table(module.simulate(customers=500, terminals=1_200, days=70, seed=4, start=date(2018, 6, 1)), file)
    return filled(applied, file, published=False, test_start=None)


@pytest.fixture(scope="session", params=["simulated", "published"] if PUBLISHED.is_file() else ["simulated"])
def payments(request, applied, simulated) -> Payments:
    """Simulated payments, and the published ones where they are."""
    if request.param == "simulated":
        return simulated
    return filled(applied, PUBLISHED, published=True, test_start="2018-08-08")


def filled(applied: Path, file: Path, *, published: bool, test_start: str | None) -> Payments:
    """A copy of the applied repo with both tables ingested from ``file``."""
    from asof.tables import ingest

    folder = applied.parent / ("published" if published else "simulated")
    shutil.copytree(applied, folder)
    repo = Repo.open(folder)
    for table in ("transactions", "fraud_reports"):
        ingest(repo, table, file)
    return Payments(file, repo, published, test_start)
