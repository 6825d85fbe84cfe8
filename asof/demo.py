"""The stage of ``asof demo``: a folder of its own, verbs run as processes, a service that is always stopped, one table.

Each verb runs as ``python -m asof ... --json`` on a copy of the feature repo, exactly as a user would run it; so the demo
shows nothing that the command line cannot do. What the steps are is decided by :mod:`asof.commands.demo`.
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
"""File that says that a folder is a demo's, and may be cleared by the next one."""

READY_WITHIN = 90.0
"""Seconds that the service has to become ready."""

WIDTH = 84
"""Characters of the middle column of the final table."""

_STOP_WITHIN = 15.0
_KEPT_OUT = ("data", "__pycache__", ".git", ".venv", ".*_cache")


@dataclass(frozen=True, slots=True)
class Script:
    """What a feature repo says about its demo, in its ``demo.yaml``.

    Attributes:
        model: Model that is trained and served.
        tables: Tables that are filled, all from the same file.
        test_start: First day of the test span, which is also replayed, as ISO date.
        simulate: Options of ``asof simulate`` where no file is given.
        simulate_small: The same for a demo in a hurry.
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
        """The script of ``repo``.

        Raises:
            SettingsError: The repo has none, or it says something else than is expected.
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
class Step:
    """One line of the final table."""

    name: str
    happened: str = ""
    seconds: float = 0.0
    fine: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON-ready data."""
        return asdict(self)


@dataclass
class Stage:
    """Where a demo plays.

    Attributes:
        folder: Everything lies below it.
        total: How many steps there will be.
        steps: The steps so far.
    """

    folder: Path
    total: int
    steps: list[Step] = field(default_factory=list)

    @property
    def repo(self) -> Path:
        """The demo's copy of the feature repo."""
        return self.folder / "feature_repo"

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """A step: announced, timed, and recorded with what the block puts into :attr:`Step.happened`."""
        current, started = Step(name), time.monotonic()
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
        """The JSON answer of a verb; its exit code (0 or 1) is added as ``exit_code``.

        Args:
            arguments: The verb and its options.
            repo: Another feature repo than the demo's.

        Raises:
            AsofError: The verb failed (exit code 2 or 3); the message is the verb's.
        """
        command = [sys.executable, "-m", "asof", "--repo", str(repo or self.repo), *arguments, "--json"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
        answer = _parsed(done.stdout)
        if done.returncode not in {0, 1} or answer is None:
            said = (answer or {}).get("error", "no answer")
            raise AsofError(f"the demo stopped at `asof {' '.join(arguments)}` (exit code {done.returncode}): {said}")
        return {**answer, "exit_code": done.returncode}

    def table(self) -> str:
        """The steps as text, what happened wrapped to :data:`WIDTH`."""
        rows: list[tuple[str, str, str]] = []
        for step in self.steps:
            told = step.happened if step.fine else f"UNEXPECTED: {step.happened}"
            first, *more = textwrap.wrap(told, WIDTH, break_on_hyphens=False) or [""]
            rows += [(step.name, first, f"{step.seconds:.1f}"), *(("", line, "") for line in more)]
        rows.append(("total", "", f"{sum(s.seconds for s in self.steps):.1f}"))
        return table(("step", "what happened", "seconds"), rows)


def prepare(folder: Path, source: Path) -> tuple[Stage, bool]:
    """An empty stage in ``folder`` with a copy of the feature repo ``source`` (without its data).

    Returns:
        The stage, and whether an earlier demo was cleared away.

    Raises:
        UsageError: The folder holds something that is not a demo's.
    """
    again = (folder / MARKER).is_file()
    if folder.exists() and not again and any(folder.iterdir()):
        raise UsageError(f"{folder} holds files that are not a demo's; name an empty folder with --into DIR")
    if again:
        _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by `asof demo`, which clears this folder when it runs again.\n")
    stage = Stage(folder, total=0)
    shutil.copytree(source, stage.repo, ignore=shutil.ignore_patterns(*_KEPT_OUT))
    return stage, again


def stop_redis(repo: Path) -> None:
    """End the embedded Redis of ``repo`` if there is one."""
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
    """A service that runs while the block does: started on a free port, ready, and gone afterwards whatever happens.

    Args:
        command: Command line of the service; ``{port}`` in it becomes the port.
        log: File for all that it prints.

    Yields:
        Its address, such as ``http://127.0.0.1:40123``.

    Raises:
        AsofError: It ended, or was not ready in time; the message quotes its last line.
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
    """Ask the service's process group to end, insist after a while."""
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
