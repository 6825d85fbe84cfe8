"""What the tests of tables share."""

import pytest

from tests.tables.repos import make_repo


@pytest.fixture
def repo(tmp_path):
    """A feature repo with applied tables."""
    return make_repo(tmp_path / "repo")
