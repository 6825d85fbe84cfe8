"""Fixtures of the serving tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asof.contract import Contract
from asof.settings import RepoSettings
from tests.serving.contracts import FUNCTIONS, machines
from tests.serving.processes import Service, asof, end_redis, make_repo, serving


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service in this process counts for itself, whatever another test's BentoML set."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of an importable module that holds the on-demand functions of the machines contract."""
    name = f"machine_functions_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def contract(functions: str) -> Contract:
    """The machines contract, its functions importable."""
    return machines(module=functions)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RepoSettings]:
    """A repo whose model was built."""
    made = make_repo(tmp_path_factory.mktemp("machines") / "repo")
    answer = asof(made.path, "build", "breakdown")
    assert answer.returncode == 0, answer.stderr
    yield made
    end_redis(made)


@pytest.fixture(scope="session")
def service(settings: RepoSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that is ready; tests may hurt it and must leave it ready."""
    log = tmp_path_factory.mktemp("service") / "log.txt"
    with serving(settings, log, ASOF_SERVE_LOG_SECONDS="0.5") as made:
        made.until_ready()
        yield made
