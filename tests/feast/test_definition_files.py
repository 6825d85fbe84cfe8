"""Which files of a repo are imported for their definitions, and how a file that cannot be imported is named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asof.errors import SettingsError
from asof.feast.apply import apply, plan
from asof.online.redis.server import EmbeddedRedis
from asof.repo import Repo
from tests.feast.repos import YAML, feast, inside, windows_repo

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Path]:
    """A repo that was never applied."""
    made = windows_repo(tmp_path / "repo")
    yield made
    EmbeddedRedis(made / "data" / "redis").stop()


def carry_python_files(repo: Path) -> None:
    """Files as `asof build` and `asof train` leave them: a script of BentoML, and a copy of definitions."""
    for name, text in {
        "data/bentoml/bentos/m/1/env/python/__main__.py": "import sys\nsys.exit(3)\n",
        "data/models/m/1/code/definitions.py": (repo / "definitions.py").read_text() + "\nraise RuntimeError\n",
    }.items():
        (repo / name).parent.mkdir(parents=True)
        (repo / name).write_text(text)


def test_what_models_and_services_carry_is_not_imported(repo: Path) -> None:
    """A repo without .feastignore can be planned and applied after a model was trained and a service was built."""
    carry_python_files(repo)

    assert plan(Repo.open(repo)).changes
    apply(Repo.open(repo))
    assert not plan(Repo.open(repo)).changes


def test_feast_itself_does_not_import_it_either(repo: Path) -> None:
    """`feast apply` works on a repo that carries models and services, because .feastignore names their folder."""
    carry_python_files(repo)
    Repo.open(repo).settings.hide_data_from_feast()

    with inside(repo):
        feast("apply", "--skip-source-validation")

    assert Repo.open(repo).services() == ["shops"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "data  # written by asof\n"),
        ("notebooks", "notebooks\ndata  # written by asof\n"),
        ("data/ # mine\n", "data/ # mine\n"),
        ("dat*\n", "dat*\n"),
        ("data/*.py # not all\n", "data/*.py # not all\ndata  # written by asof\n"),
    ],
)
def test_feastignore_is_completed_and_otherwise_kept(repo: Path, before: str | None, after: str) -> None:
    """The folder is added to .feastignore once, if no line names it."""
    if before is not None:
        (repo / ".feastignore").write_text(before)

    for _ in range(2):
        Repo.open(repo).settings.hide_data_from_feast()

    assert (repo / ".feastignore").read_text() == after


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("script.py", "import sys\n\nsys.exit(3)\n", "script.py:3 called exit(3) while it was imported; if the file is a script"),
        ("broken.py", "a = 1\nb = a.c\n", "broken.py:2: AttributeError: 'int' object has no attribute 'c'"),
        ("typo.py", "a = 1\n\nb = = 2\n", "typo.py:3: SyntaxError: invalid syntax"),
        ("with.dot/views.py", "", "with.dot/views.py: ModuleNotFoundError: No module named 'with'"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_imported_is_named(repo: Path, name: str, text: str, said: str) -> None:
    """The message names the file and, where Python knows it, the line."""
    (repo / name).parent.mkdir(exist_ok=True)
    (repo / name).write_text(text)

    with pytest.raises(SettingsError, match=f"^reading the definitions: {re.escape(said)}"):
        plan(Repo.open(repo))


def test_files_of_models_define_features_only_if_they_import_feast(repo: Path) -> None:
    """A model's file that cannot be read does not stop plan and apply; one that imports Feast is read as definitions."""
    (repo / "models").mkdir()
    (repo / "models" / "broken.py").write_text("def (")
    (repo / "models" / "shop.py").write_text(
        "from feast import Entity\nfrom feast.value_type import ValueType\n"
        'till = Entity(name="till", join_keys=["till"], value_type=ValueType.INT64)\n'
    )

    assert ("entity", "till") in {(c.kind, c.name) for c in plan(Repo.open(repo)).changes}


OWN_FOLDERS = {
    "training/prepared.py": 'TABLE = "visits"\n',
    "tests/functions.py": 'def double(given):\n    return {"twice": [v and v * 2 for v in given["value"]]}\n',
    "monitoring/entities.py": (
        "from feast import Entity\nfrom feast.value_type import ValueType\n"
        'sensor = Entity(name="sensor", join_keys=["sensor"], value_type=ValueType.INT64)\n'
    ),
    "serving/features.py": """
from datetime import timedelta

from feast import FeatureService, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from monitoring.entities import sensor
from tests.functions import double

names = {"id": "int64", "sensor": "int64", "value": "float64", "at": "timestamp", "known": "timestamp"}
source = FileSource(
    name="cal", path="data/tables/cal", timestamp_field="at", created_timestamp_column="known", file_format=DeltaFormat(),
    tags={"asof.id": "id", "asof.derive.known": "at + 1 hour", **{f"asof.column.{n}": t for n, t in names.items()}},
)
calibration = FeatureView(
    name="calibration", entities=[sensor], ttl=timedelta(days=90), source=source,
    schema=[Field(name="sensor", dtype=Int64), Field(name="value", dtype=Float64)],
)
twice = on_demand_feature_view(sources=[calibration], schema=[Field(name="twice", dtype=Float64)], mode="python")(double)
service = FeatureService(name="cal_v1", features=[calibration, twice])
""",
    "models/m.py": (
        "from training.prepared import TABLE\nfrom asof.training.model import LabelledRows, Model\n"
        'm = Model(name="m", service="cal_v1", rows=LabelledRows(table=TABLE, event_time="at", id="id", keys=("sensor",), label="y"))\n'
    ),
    "cal.csv": "id,sensor,value,at\n1,7,2.5,2026-01-01 00:00:00\n",
}


def test_a_repo_may_have_folders_named_as_packages_of_ours(tmp_path: Path) -> None:
    """A repo with its own training, serving, monitoring and tests is applied, filled, read and trained from; its code finds its own."""
    (tmp_path / "feature_store.yaml").write_text(YAML.format(project="own"))
    for name, text in OWN_FOLDERS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def asof(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-W", "ignore", "-m", "asof", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    try:
        for line in ("apply", "ingest cal cal.csv", "materialize --to 2026-02-01"):
            done = asof(*line.split())
            assert done.returncode == 0, done.stderr
        read = asof("get", "cal_v1", "--at", "2026-01-03", "sensor=7")
        trained = asof("train", "m")
    finally:
        EmbeddedRedis(tmp_path / "data" / "redis").stop()

    assert re.search(r"twice +5 +present", read.stdout), read.stdout + read.stderr
    assert "no table named 'visits'" in trained.stderr
