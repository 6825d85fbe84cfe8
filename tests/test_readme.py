"""Every block of README.md works: files are written, commands are run in order, in a fresh clone, and the output is compared.

A ``console`` block holds commands behind ``$`` and what they print. Numbers, times and paths of the run differ, so output is
compared with every number masked; a line ``...`` stands for any lines. A block behind ``<!-- file: NAME -->`` is a file. The
demo runs on less data than a reader's would.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from asof.online.redis.server import EmbeddedRedis

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"[-+]?\d[\d.,:TZe]*|\b(?:inf|nan)\b")
HASH = re.compile(r"\b[0-9a-f]{8,}\b")
INSTEAD = {
    ". .venv/bin/activate": "true",
    "make demo": "asof demo --small",
    "make test": "python -m pytest --version",
    "make lint": "ruff --version",
    "make bench": "ls benchmarks",
    "make laws": "ls tests/laws",
}
"""What the test runs instead of a command that would take minutes or run this test again."""

SILENT = {"make test", "make lint", "make bench", "make laws"}


@dataclass(frozen=True)
class Command:
    """A command of the README and the lines that it should print."""

    line: str
    expected: tuple[str, ...]


def _blocks() -> list[re.Match[str]]:
    return list(BLOCK.finditer((ROOT / "README.md").read_text()))


def _commands(body: str) -> list[Command]:
    joined = body.replace("\\\n", " ")
    parts = re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]
    return [Command(part.splitlines()[0].strip(), tuple(part.splitlines()[1:])) for part in parts]


def _masked(line: str) -> str:
    """The line with every number, hash and ruler made equal."""
    return " ".join(re.sub(r"[-─]{2,}", "--", NUMBER.sub("#", HASH.sub("#", line))).split())


def _step(line: str) -> str:
    """The first column of the demo's table: what follows depends on the data."""
    return line[:18].strip()


def _missing(command: Command, printed: str) -> list[str]:
    """The expected lines that were not printed, in their order."""
    form = _step if command.line == "make demo" else _masked
    actual = iter([form(line) for line in printed.splitlines()])
    wanted = [form(line) for line in command.expected if form(line) and line.strip() != "..."]
    return [line for line in wanted if not any(line == found for found in actual)]


def _environment(folder: Path) -> dict[str, str]:
    """The tests' own Python first on the path, importing asof from the clone."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}


def _run(command: Command, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    line = re.sub(r"^asof\b", "python -m asof", INSTEAD.get(command.line, command.line))
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=600, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader gets: the tracked files, as they are now."""
    folder = tmp_path_factory.mktemp("readme") / "asof"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    return folder


def test_readme_has_blocks_to_run() -> None:
    """The README shows commands with their output, and files."""
    languages = [b["language"] for b in _blocks()]

    assert languages.count("console") >= 5
    assert any(b["file"] for b in _blocks())


@pytest.mark.timeout(1_200)
def test_every_block_of_the_readme_works(clone: Path) -> None:
    """Run from top to bottom, every command ends well and prints the lines that the README shows."""
    environment, failures = _environment(clone), []
    try:
        for block in _blocks():
            if block["file"]:
                (clone / block["file"]).parent.mkdir(parents=True, exist_ok=True)
                (clone / block["file"]).write_text(block["body"])
            for command in _commands(block["body"]) if block["language"] == "console" else ():
                failures += _failures(command, clone, environment)
    finally:
        for settings in clone.glob("**/feature_store.yaml"):
            EmbeddedRedis(settings.parent / "data" / "redis").stop()

    assert failures == []


def _failures(command: Command, folder: Path, environment: dict[str, str]) -> list[str]:
    """What went wrong, if anything; ``export`` holds for all commands that follow."""
    if command.line.startswith("git clone"):
        return []
    if command.line.startswith("export "):
        name, _, value = command.line.removeprefix("export ").partition("=")
        environment[name] = value
        return []
    done = _run(command, folder, environment)
    printed = done.stdout + done.stderr
    if done.returncode:
        return [f"$ {command.line}: exit code {done.returncode}\n{printed[-2000:]}"]
    missing = [] if command.line in SILENT else _missing(command, printed)
    return [f"$ {command.line}: did not print {missing}\n{printed[-3000:]}"] if missing else []
