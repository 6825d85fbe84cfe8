"""Which files of a repo are imported for their definitions, and how a file that cannot be imported is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from asof.errors import SettingsError
from asof.feast.apply import apply, plan
from asof.online.redis.server import EmbeddedRedis
from asof.repo import Repo
from tests.feast.repos import feast, inside, windows_repo

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
