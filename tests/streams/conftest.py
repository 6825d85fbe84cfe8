"""A repo that streams feed, with a Redis of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asof.online.redis.server import EmbeddedRedis
from asof.repo import Repo
from tests.streams.world import make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    """A feature repo with applied tables; its Redis starts when it is needed and is gone afterwards."""
    made = make_repo(tmp_path / "repo")
    yield made
    EmbeddedRedis(made.settings.online.folder).stop()
