"""Every block of README.md, and of the pages that start where it ends, works in a fresh clone whose folder has an awkward name.

The demo runs on less data than a reader's would.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.console_blocks import FOLDER, Shell, blocks

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
INSTEAD = {
    ". .venv/bin/activate": "true",
    "make demo": "asof demo --small",
    "make test": "python -m pytest --version",
    "make lint": "ruff --version",
    "make docs": "ls docs",
    "make bench": "ls benchmarks",
    "make laws": "ls tests/laws",
    "asof train fraud --test-start 2018-08-08": "asof --repo demo/feature_repo train fraud --test-start 2018-08-08 --force",
}
"""What the test runs instead of a command that would take minutes or run this test again."""

MORE = ("index.md", "training.md")
"""Pages of docs/ whose commands need what README's commands made."""

SILENT = frozenset({"make test", "make lint", "make docs", "make bench", "make laws"})


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader gets: the tracked files, as they are now."""
    folder = tmp_path_factory.mktemp("readme") / FOLDER / "asof"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    return folder


def test_readme_has_blocks_to_run() -> None:
    """The README shows commands with their output, and files."""
    found = blocks(README)

    assert [b["language"] for b in found].count("console") >= 5
    assert any(b["file"] for b in found)


@pytest.mark.timeout(1_200)
def test_every_block_of_the_readme_works(clone: Path) -> None:
    """Run from top to bottom, every command ends well and prints the lines that the README shows."""
    first_column = {"make demo": lambda line: line[:18].strip()}  # what follows it depends on the data
    shell = Shell(clone, INSTEAD, SILENT, first_column)
    shell.environment["PYTHONPATH"] = str(clone)

    assert shell.failures(README) == []
    for page in MORE:
        shell = Shell(clone, INSTEAD, SILENT, first_column)
        shell.environment["PYTHONPATH"] = str(clone)
        assert shell.failures(ROOT / "docs" / page) == []


def test_every_page_with_commands_is_run() -> None:
    """A page that shows commands is run here, or by a test of its own in tests/."""
    shown = {p.name for p in (ROOT / "docs").glob("*.md") if any(b["language"] == "console" for b in blocks(p))}
    named = {
        name for test in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"([\w-]+\.md)\"", test.read_text())
    }

    assert shown <= named
