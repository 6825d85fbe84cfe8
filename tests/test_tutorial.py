"""Every block of docs/tutorial.md works, run in order in an empty folder with an awkward name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asof.online.redis.server import EmbeddedRedis
from tests.console_blocks import FOLDER, Shell

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(900)
def test_every_block_of_the_tutorial_works(tmp_path: Path) -> None:
    """From events to a served model that is watched: every command prints what the page shows; then the repo can be applied again."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    shell = Shell(folder)

    assert shell.failures(ROOT / "docs" / "tutorial.md") == []

    for command in (["asof", "--repo", ".", "plan"], ["feast", "apply", "--skip-source-validation"]):
        done = subprocess.run(
            [Path(sys.executable).with_name(command[0]), *command[1:]],
            cwd=folder / "deliveries",
            env=shell.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    EmbeddedRedis(folder / "deliveries" / "data" / "redis").stop()  # applying started it again
