"""docs/own-project.md works: a wheel, installed outside the checkout, does the whole loop: init, ingest, train, serve, predict."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.console_blocks import FOLDER, Shell

ROOT = Path(__file__).resolve().parents[1]
INSTEAD = {
    "python -m venv .venv": "true",
    ". .venv/bin/activate": "true",
    'pip install "asof @ git+<address of this repository>"': "asof --version",
}
"""What the fixture did instead."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel of this checkout.

    The dependencies are those of the environment that runs the tests, on a path that carries no editable install; with
    ``WHEEL_DEPENDENCIES=install`` they are installed by pip as a user's are. The environment has no pip, so nothing can add to it later.
    """
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("asof-*.whl")
    env = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    pip = [sys.executable, "-m", "pip", "--python", env / "bin" / "python", "install", "--quiet", "--no-input"]
    if os.environ.get("WHEEL_DEPENDENCIES") == "install":
        subprocess.run([*pip, wheel], check=True)
    else:
        subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True)
        (site,) = env.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return env


@pytest.mark.timeout(900)
def test_every_block_of_the_page_works_with_the_wheel_alone(environment: Path, tmp_path: Path) -> None:
    """Outside the checkout, with the wheel's own commands: a repo is made from a file, trained, served, and answers a request."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    shell = Shell(folder, INSTEAD)
    shell.environment = {k: v for k, v in shell.environment.items() if not k.startswith("PYTHON")}
    shell.environment["PATH"] = os.pathsep.join([str(environment / "bin"), "/usr/bin", "/bin"])
    where = subprocess.run(
        [shutil.which("python", path=shell.environment["PATH"]) or "", "-c", "import asof; print(asof.__file__)"],
        cwd=tmp_path, env=shell.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    assert Path(where.strip()).is_relative_to(environment)
    assert shell.failures(ROOT / "docs" / "own-project.md") == []
