"""The folder in which ``asof demo`` runs commands and a service, and the table of its steps.

Each command runs as ``python -m asof ... --json`` on a copy of the feature repo, exactly as a user would run it.
:mod:`asof.commands.demo` defines the steps.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import click

from asof.console import table
from asof.errors import AsofError, SettingsError, UsageError

MARKER = ".asof-demo"
"""File that marks the folder of a demo, which the next demo may delete."""

READY_WITHIN = 90.0
"""Seconds within which the service must become ready."""

WIDTH = 84
"""Characters of the middle column of the final table."""

_STOP_WITHIN = 15.0
_KEPT_OUT = ("data", "__pycache__", ".git", ".venv", ".*_cache")


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """The ``demo.yaml`` of a feature repo.

    Attributes:
        model: Model that is trained and served.
        tables: Tables to fill, all from the same file.
        test_start: First day of the test span, which is also replayed, as ISO date.
        simulate: Options of ``asof simulate`` if no file is given.
        simulate_small: The same for ``--small``.
        manipulate: Request field -> factor, for the manipulated copy of the replayed span.
    """

    model: str
    tables: tuple[str, ...]
    test_start: str
    simulate: Mapping[str, Any]
    simulate_small: Mapping[str, Any]
    manipulate: Mapping[str, float]

    @classmethod
    def load(cls, repo: Path) -> Self:
        """The ``demo.yaml`` of ``repo``.

        Raises:
            SettingsError: The repo has none, or it has other keys than expected.
        """
        import yaml

        path = repo / "demo.yaml"
        try:
            given = yaml.safe_load(path.read_text())
            return cls(**{**given, "tables": tuple(given["tables"]), "test_start": str(given["test_start"])})
        except FileNotFoundError:
            raise SettingsError(
                f"{repo} has no demo.yaml, so there is no demo of it; name another repo with --repo"
            ) from None
        except (TypeError, KeyError, yaml.YAMLError) as error:
            names = ", ".join(f.name for f in fields(cls))
            raise SettingsError(f"{path}: expected the keys {names}; {' '.join(str(error).split())}") from error


@dataclass(slots=True)
class DemoStep:
    """One line of the final table."""

    name: str
    happened: str = ""
    seconds: float = 0.0
    fine: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON-ready data."""
        return asdict(self)


@dataclass
class DemoWorkspace:
    """The folder and the steps of a demo.

    Attributes:
        folder: The folder that holds everything.
        total: Number of steps that the demo will have.
        steps: The steps so far.
    """

    folder: Path
    total: int
    steps: list[DemoStep] = field(default_factory=list)

    @property
    def repo(self) -> Path:
        """The demo's copy of the feature repo."""
        return self.folder / "feature_repo"

    @contextmanager
    def step(self, name: str) -> Iterator[DemoStep]:
        """A step: timed, printed and recorded with what the block writes into :attr:`DemoStep.happened`."""
        current, started = DemoStep(name), time.monotonic()
        place = f"[{len(self.steps) + 1:>2}/{self.total}] {name:<20}"
        if sys.stderr.isatty():
            click.echo(f"{place} ...", err=True, nl=False)
        yield current
        current.seconds = time.monotonic() - started
        self.steps.append(current)
        erase = "\r\033[K" if sys.stderr.isatty() else ""
        sign = "" if current.fine else "UNEXPECTED: "
        click.echo(f"{erase}{place} {current.seconds:6.1f} s  {sign}{current.happened}", err=True)

    def asof(self, *arguments: str, repo: Path | None = None) -> dict[str, Any]:
        """The JSON output of a command; its exit code (0, 1 or 4) is added as ``exit_code``.

        Args:
            arguments: The command and its options.
            repo: A feature repo other than the demo's.

        Raises:
            AsofError: The command failed (exit code 2 or 3); holds its message.
        """
        command = [sys.executable, "-m", "asof", "--repo", str(repo or self.repo), *arguments, "--json"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
        answer = _parsed(done.stdout)
        if done.returncode not in {0, 1, 4} or answer is None:
            said = (answer or {}).get("error", "no answer")
            raise AsofError(f"`asof {' '.join(arguments)}` failed (exit code {done.returncode}): {said}")
        return {**answer, "exit_code": done.returncode}

    def table(self) -> str:
        """The steps as a text table, its middle column wrapped to :data:`WIDTH`."""
        rows: list[tuple[str, str, str]] = []
        for step in self.steps:
            told = step.happened if step.fine else f"UNEXPECTED: {step.happened}"
            first, *more = textwrap.wrap(told, WIDTH, break_on_hyphens=False) or [""]
            rows += [(step.name, first, f"{step.seconds:.1f}"), *(("", line, "") for line in more)]
        rows.append(("total", "", f"{sum(s.seconds for s in self.steps):.1f}"))
        return table(("step", "what happened", "seconds"), rows)


def prepare(folder: Path, source: Path) -> tuple[DemoWorkspace, bool]:
    """A new workspace in ``folder`` with a copy of the feature repo ``source``, without its data.

    Returns:
        The workspace, and whether an earlier demo was deleted.

    Raises:
        UsageError: The folder holds files and is not the folder of a demo.
    """
    again = (folder / MARKER).is_file()
    if folder.exists() and not again and any(folder.iterdir()):
        raise UsageError(f"{folder} holds files and is not the folder of a demo; name an empty folder with --into DIR")
    if again:
        _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by `asof demo`, which deletes the contents of this folder when it runs again.\n")
    workspace = DemoWorkspace(folder, total=0)
    shutil.copytree(source, workspace.repo, ignore=shutil.ignore_patterns(*_KEPT_OUT))
    return workspace, again


def stop_redis(repo: Path) -> None:
    """Stop the embedded Redis of ``repo`` if it runs."""
    from asof.online.redis.server import EmbeddedRedis

    EmbeddedRedis(repo / "data" / "redis").stop()


def _clear(folder: Path) -> None:
    stop_redis(folder / "feature_repo")
    for entry in folder.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def service(command: Sequence[str], log: Path) -> Iterator[str]:
    """Starts a service on a free port, waits until it is ready, and always stops it at the end of the block.

    Args:
        command: Command line of the service; ``{port}`` in it becomes the port.
        log: File for its output.

    Yields:
        Its address, such as ``http://127.0.0.1:40123``.

    Raises:
        AsofError: The service ended or was not ready in time; the message quotes its last line of output.
    """
    port = _free_port()
    line = [part.replace("{port}", str(port)) for part in command]
    with log.open("wb") as sink:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
        try:
            _await_ready(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not _ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            state = (
                f"ended with code {process.returncode}" if process.returncode is not None else "did not become ready"
            )
            last = ([line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["nothing"])[-1]
            raise AsofError(f"the service {state}; it said: {last.strip()} (all of it: {log})")
        time.sleep(0.1)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the service's process group, and SIGKILL if it has not ended in time."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_WITHIN)
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(_STOP_WITHIN)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
