"""Runs the blocks of a page: files are written, commands are run in order, and their output is compared with the page.

A ``console`` block holds commands behind ``$`` and what they print. Numbers, times and paths of the run differ, so output is
compared with every number masked; a line ``...`` stands for any lines. A block below a line that holds a file's name in backticks and
a colon is that file. A service that is started in the background (``asof serve ... &``) is waited for, and ended by
``kill %1`` or at the end.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asof.online.redis.server import EmbeddedRedis
from tests.serving.processes import free_port

BLOCK = re.compile(
    r"(?:^`(?P<file>[\w./-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"[-+]?\d[\d.,:TZe]*|\b(?:inf|nan)\b")
HASH = re.compile(r"\b[0-9a-f]{8,}\b")
FOLDER = "my répo & co"
"""Where pages are run: a folder that no command may stumble over."""

PORT = "3000"
"""The port of a service on a page; a free one is used instead."""


@dataclass(frozen=True)
class Command:
    """A command of a page and the lines that it should print."""

    line: str
    expected: tuple[str, ...]


def blocks(page: Path) -> list[re.Match[str]]:
    """The blocks of ``page``, in order, as matches with the groups file, language and body."""
    return list(BLOCK.finditer(page.read_text()))


def masked(line: str) -> str:
    """The line with every number, hash and ruler made equal."""
    return " ".join(re.sub(r"[-─═]{2,}", "--", NUMBER.sub("#", HASH.sub("#", line))).split())


@dataclass
class Shell:
    """Runs the blocks of a page in a folder.

    Attributes:
        folder: Where it runs.
        instead: Command of the page -> what is run instead of it.
        silent: Commands whose output is not compared.
        forms: Command -> how its lines are made comparable, where masking numbers is not it.
    """

    folder: Path
    instead: Mapping[str, str] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    forms: Mapping[str, Callable[[str], str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ASOF_", "BENTOML_", "PROMETHEUS_"))}
        self.environment = {**kept, "PATH": path, "PYTHONPATH": str(self.folder)}
        self.port = str(free_port())
        self.services: list[subprocess.Popen[bytes]] = []

    def failures(self, page: Path) -> list[str]:
        """What went wrong with the blocks of ``page``, run from top to bottom; empty if nothing did."""
        found = []
        try:
            for block in blocks(page):
                if block["file"]:
                    target = self.folder / block["file"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(block["body"].replace(f":{PORT}", f":{self.port}"))
                for command in _commands(block["body"]) if block["language"] == "console" else ():
                    found += self._run(command)
        finally:
            self._stop()
            for settings in self.folder.glob("**/feature_store.yaml"):
                EmbeddedRedis(settings.parent / "data" / "redis").stop()
        return found

    def _run(self, command: Command) -> list[str]:
        if command.line.startswith("git clone"):
            return []
        if command.line.startswith("export "):
            name, _, value = command.line.removeprefix("export ").partition("=")
            self.environment[name] = value
            return []
        if command.line == "kill %1":
            return self._stop()
        line = re.sub(r"^asof\b", "python -m asof", self.instead.get(command.line, command.line))
        line = re.sub(rf"(?<=[: ]){PORT}\b", self.port, line)
        return self._serve(command, line.removesuffix("&")) if line.endswith("&") else self._compare(command, line)

    def _compare(self, command: Command, line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=600, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        printed = (done.stdout + done.stderr).replace(f"{self.folder}/", "")
        if done.returncode:
            return [f"$ {command.line}: exit code {done.returncode}\n{printed[-2000:]}"]
        form = self.forms.get(command.line, masked)
        missing = [] if command.line in self.silent else _missing(command, printed, form)
        return [f"$ {command.line}: did not print {missing}\n{printed[-3000:]}"] if missing else []

    def _serve(self, command: Command, line: str) -> list[str]:
        """Start a service and wait until it is ready."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL
        )
        self.services.append(process)
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2):
                    return []
            except OSError:
                time.sleep(0.2)
        return [f"$ {command.line}: the service did not become ready (exit code {process.poll()})"]

    def _stop(self) -> list[str]:
        for process in self.services:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        self.services.clear()
        return []


def _commands(body: str) -> list[Command]:
    joined = body.replace("\\\n", " ")
    parts = re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]
    return [Command(part.splitlines()[0].strip(), tuple(part.splitlines()[1:])) for part in parts]


def _missing(command: Command, printed: str, form: Callable[[str], str]) -> list[str]:
    """The expected lines that were not printed, in their order."""
    actual = iter([form(line) for line in printed.splitlines()])
    wanted = [form(line) for line in command.expected if form(line) and line.strip() != "..."]
    return [line for line in wanted if not any(line == found for found in actual)]
