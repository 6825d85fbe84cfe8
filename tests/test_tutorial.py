"""Every block of docs/tutorial.md works, run in order in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console_blocks import Shell

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(900)
def test_every_block_of_the_tutorial_works(tmp_path: Path) -> None:
    """From events to a served model that is watched: every command ends well and prints the lines that the page shows."""
    shell = Shell(tmp_path)
    shell.environment["PYTHONPATH"] = str(ROOT)

    assert shell.failures(ROOT / "docs" / "tutorial.md") == []
