"""A built service records where it was built, holds no secret, and can be reconfigured by the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from asof.errors import SettingsError
from asof.serving import deployment
from asof.serving.deployment import Deployment
from asof.settings import RepoSettings

STORE = "project: machines\nonline_store:\n  type: asof.online.RedisOnlineStore\n  connection_string: {}\n"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repo with a Redis of its own."""
    made = tmp_path / "repo"
    made.mkdir()
    (made / "feature_store.yaml").write_text(STORE.format("embedded"))
    return made


@pytest.fixture
def built(repo: Path, tmp_path: Path) -> Path:
    """The deployment that a build of that repo records."""
    folder = tmp_path / "built"
    folder.mkdir()
    deployment.write(folder, RepoSettings.load(repo))
    return folder


def test_it_uses_the_repo_that_it_was_built_in(built: Path, repo: Path) -> None:
    """On the machine of the repo, Redis and the prediction log are the repo's."""
    found = Deployment.load(built)
    assert (found.online.folder, found.predictions) == (repo / "data" / "redis", repo / "data" / "predictions")


def test_elsewhere_it_uses_what_was_declared(built: Path, repo: Path) -> None:
    """Where the repo is not, the declared online store holds and files lie beside the service."""
    (repo / "feature_store.yaml").write_text(STORE.format('"redis:6379"'))
    deployment.write(built, RepoSettings.load(repo))
    repo.rename(repo.parent / "gone")
    found = Deployment.load(built)
    assert found.online.connection_string == "redis:6379"
    assert found.predictions.is_relative_to(built)


def test_the_environment_decides_otherwise(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another repo, Redis and folder can be named when the service is started."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "feature_store.yaml").write_text(STORE.format("embedded"))
    monkeypatch.setenv("ASOF_REPO", str(other))
    assert Deployment.load(built).predictions == other / "data" / "predictions"
    monkeypatch.setenv("ASOF_REDIS", "elsewhere:6379")
    monkeypatch.setenv("ASOF_PREDICTIONS", "/var/log/predictions")
    found = Deployment.load(built)
    assert (found.online.connection_string, found.predictions) == ("elsewhere:6379", Path("/var/log/predictions"))


@pytest.mark.parametrize(
    "text",
    ["redis:6379,password=secret4711", "redis:6379,username=$USER,password=secret4711", "redis://me:secret4711@h"],
)
def test_a_password_in_plain_text_is_refused(built: Path, repo: Path, text: str) -> None:
    """The error names the way out and not the password, and nothing of it is written."""
    (repo / "feature_store.yaml").write_text(STORE.format(f'"{text}"'))
    with pytest.raises(SettingsError, match="plain text") as caught:
        deployment.write(built, RepoSettings.load(repo))
    assert "secret4711" not in str(caught.value)
    assert not [p for p in built.rglob("*") if p.is_file() and b"secret4711" in p.read_bytes()]


def test_a_password_in_a_variable_stays_there(built: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable's name is built in, its value is read when the service starts."""
    monkeypatch.setenv("MACHINES_PASSWORD", "secret4711")
    (repo / "feature_store.yaml").write_text(STORE.format('"redis:6379,password=${MACHINES_PASSWORD}"'))
    deployment.write(built, RepoSettings.load(repo))
    assert not [p for p in built.rglob("*") if p.is_file() and b"secret4711" in p.read_bytes()]
    repo.rename(repo.parent / "gone")
    assert Deployment.load(built).online.connection_string == "redis:6379,password=secret4711"
