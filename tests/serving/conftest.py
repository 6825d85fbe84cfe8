"""Fixtures of the serving tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asof.contract import Contract
from tests.serving.contracts import FUNCTIONS, machines


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
