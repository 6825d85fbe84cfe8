"""Real redis-servers for the tests of the online side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asof.redis_server import EmbeddedRedis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """An embedded server that is not started yet and is gone afterwards."""
    embedded = EmbeddedRedis(tmp_path / "redis")
    yield embedded
    embedded.stop()
