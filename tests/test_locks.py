"""The two locks: requirements.lock holds what runs, requirements-dev.lock that and what tests; `make` installs what a target needs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RUNS, TESTS = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"


def pins(lock: Path) -> set[str]:
    """The pinned requirements of a lock, with their markers."""
    return {line.rstrip("\\ ") for line in lock.read_text().splitlines() if line and line[0] not in "# "}


def names(lock: Path) -> set[str]:
    return {canonicalize_name(Requirement(pin).name) for pin in pins(lock)}


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(t for extra in extras for t in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(text).name) for text in texts} - {"asof"}


def test_what_runs_is_locked_at_the_tested_versions() -> None:
    """Every package that runs has the same version in both locks."""
    versions = {pin.partition(";")[0].strip() for pin in pins(TESTS)}
    assert {pin.partition(";")[0].strip() for pin in pins(RUNS)} <= versions


def test_each_lock_holds_what_it_is_for() -> None:
    """The lock of what runs has every declared dependency and no test tool; the other has everything."""
    assert declared("install") <= names(RUNS)
    assert declared("install", "dev", "docs", "examples") <= names(TESTS)
    assert not names(RUNS) & {
        "pytest",
        "hypothesis",
        "ruff",
        "import-linter",
        "mkdocs",
        "mkdocs-material",
        "ibis-framework",
        *declared("examples") - declared(),
    }


@pytest.mark.parametrize("lock", [RUNS, TESTS], ids=lambda lock: lock.name)
def test_locks_name_no_registry(lock: Path) -> None:
    """A lock has hashes, and no address or path of the machine that made it."""
    text = lock.read_text()
    assert "--hash=sha256:" in text
    assert not re.search(r"://|index-url|find-links|^[^#]* @ ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("target", "dev"), [("demo", False), ("examples", True), ("test", True), ("lint", True), ("docs", True)]
)
def test_targets_install_what_they_need(target: str, dev: bool) -> None:
    """`make demo` installs requirements.lock alone; `make test` and its like add requirements-dev.lock."""
    said = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--require-hashes -r requirements.lock" in said
    assert ("--require-hashes -r requirements-dev.lock" in said) is dev
