"""Real redis-servers for the tests of the online side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asof.online import MemoryStore, Writer
from asof.online.redis.server import EmbeddedRedis
from asof.settings import OnlineSettings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """An embedded server that is not started yet and is gone afterwards."""
    embedded = EmbeddedRedis(tmp_path / "redis")
    yield embedded
    embedded.stop()


@pytest.fixture(scope="package")
def shared_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnlineSettings]:
    """One server for all tests that only need some Redis."""
    folder = tmp_path_factory.mktemp("online") / "redis"
    yield OnlineSettings("embedded", folder)
    EmbeddedRedis(folder).stop()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, shared_settings: OnlineSettings) -> Any:
    """Each kind of store, empty: what a Reader and a Writer take."""
    if request.param == "memory":
        return MemoryStore()
    Writer("tests", shared_settings).drop_project()
    return shared_settings
