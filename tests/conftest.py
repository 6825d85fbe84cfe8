"""What every test shares: how hard hypothesis looks, and where nothing of the developer's own environment leaks in."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("WHYLOGS_NO_ANALYTICS", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "1")
os.environ.setdefault("FEAST_USAGE", "False")

_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("default", max_examples=60, derandomize=True, **_PATIENT)
settings.register_profile("thorough", max_examples=2_000, **_PATIENT)
settings.load_profile("default")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's own feature repo, Redis or debugging switch."""
    for name in ("ASOF_REPO", "ASOF_REDIS", "ASOF_DEBUG", "BENTOML_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_loggers() -> None:
    """No test is silenced by another one that imported BentoML, which disables all loggers that exist."""
    for name in logging.root.manager.loggerDict:
        if name.startswith("asof"):
            logging.getLogger(name).disabled = False


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as a built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=root, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder
