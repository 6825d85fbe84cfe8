"""Limits are read from environment variables."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from asof.errors import SettingsError
from asof.serving.limits import PREFIX, Limits


def test_a_limit_is_set_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable changes its limit and no other."""
    monkeypatch.setenv("ASOF_SERVE_MAX_ROWS", "7")
    assert Limits.from_environment() == Limits(max_rows=7)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_a_limit_that_is_no_positive_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The variable and what was expected are named."""
    monkeypatch.setenv("ASOF_SERVE_MAX_ROWS", text)
    with pytest.raises(SettingsError, match="ASOF_SERVE_MAX_ROWS"):
        Limits.from_environment()


def test_a_mistyped_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown limit is an error and is not ignored."""
    monkeypatch.setenv("ASOF_SERVE_MAXROWS", "7")
    with pytest.raises(SettingsError, match=r"unknown.*ASOF_SERVE_MAXROWS"):
        Limits.from_environment()


def test_what_kubernetes_sets_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Kubernetes service called asof-serve puts variables of that name into every pod; they are ignored."""
    monkeypatch.setenv("ASOF_SERVE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("ASOF_SERVE_PORT_3000_TCP", "tcp://10.0.0.1:3000")
    assert Limits.from_environment() == Limits()


def test_the_documentation_names_every_limit_with_its_default() -> None:
    """docs/configuration.md lists exactly the variables that there are, with the values that hold without them."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    listed = dict(re.findall(r"^\| `(ASOF_SERVE_\w+)` \| (\d+) \|", text, re.MULTILINE))
    assert listed == {
        PREFIX + f.name.upper(): str(int(f.default)) for f in fields(Limits) if isinstance(f.default, int | float)
    }
