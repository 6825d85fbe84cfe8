"""Fixtures of the serving tests."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asof.contract import Contract
from asof.online import AsyncReader
from asof.serving import deployment, worker
from asof.serving.feature_fetcher import FeatureFetcher
from asof.serving.limits import Limits
from asof.settings import RepoSettings
from tests.serving import bundles
from tests.serving.contracts import FUNCTIONS, machines
from tests.serving.doubles import UnreliableStore
from tests.serving.processes import Service, asof, end_redis, make_repo, serving


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service in this process keeps its own counts, whatever BentoML set for another test."""
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
    """A service that is ready; tests may disturb it and must leave it ready."""
    log = tmp_path_factory.mktemp("service") / "log.txt"
    with serving(settings, log, ASOF_SERVE_LOG_SECONDS="0.5") as made:
        made.until_ready()
        yield made


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, contract: Contract, functions: str) -> Path:
    """What a Bento of the machines model holds, and the repo it was built in; ``timeless``: its rows have no moment."""
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text("project: machines\nonline_store: {type: asof.online.RedisOnlineStore}\n")
    built = tmp_path / "built"
    timeless = getattr(request, "param", None) == "timeless"
    bundles.write(tmp_path / "models", contract, functions, event_time=not timeless)
    built.mkdir()
    (tmp_path / "models" / "breakdown" / "v1").rename(built / "bundle")
    deployment.write(built, RepoSettings.load(repo))
    return built


@pytest.fixture
def unreliable_store(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> UnreliableStore:
    """A store in memory instead of Redis."""
    made = UnreliableStore(contract)
    connect = functools.partial(FeatureFetcher, connect=lambda known, _settings: AsyncReader(known, made))
    monkeypatch.setattr(worker, "FeatureFetcher", connect)
    return made


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that sets the limits of services started after it."""

    def set_limits(**changed: float) -> None:
        monkeypatch.setattr(Limits, "from_environment", lambda: Limits(**changed))  # type: ignore[arg-type]

    set_limits(log_seconds=0.05, check_every=0.05)
    return set_limits
