"""Real services in processes of their own, each with a repo and a Redis of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow as pa

from asof import prediction_log
from asof.contract.cache import digest
from asof.online import Writer
from asof.online.redis.server import EmbeddedRedis
from asof.settings import RepoSettings
from asof.tables import Declarations, TableDeclaration
from asof.tables.declarations import CACHE, _write
from tests.serving import bundles
from tests.serving.contracts import machines
from tests.serving.doubles import fill

ROOT = Path(__file__).parents[2]
ROW = {"machine_id": 1, "site": "north", "load": 8.0, "read_at": "2024-05-01T13:30:00Z"}
AT = 1_714_570_200_000_000
STORE = """\
project: machines
registry: data/registry.db
provider: asof.provider.AsofProvider
online_store: {type: asof.online.RedisOnlineStore, connection_string: embedded}
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**changed: str) -> dict[str, str]:
    """The environment of a command, without variables of asof, BentoML and Prometheus."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ASOF_", "BENTOML_", "PROMETHEUS_"))}
    return {**kept, **changed}


def asof(repo: Path, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ``asof`` and wait for its end."""
    command = [sys.executable, "-m", "asof", "--repo", str(repo), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**changed), capture_output=True, text=True, timeout=120, check=False
    )


def make_repo(repo: Path) -> RepoSettings:
    """A repo with a trained model and features in its Redis."""
    repo.mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(STORE)
    settings = RepoSettings.load(repo)
    bundles.write(settings.models, machines(), "machine_functions")
    declare(settings)
    fill(machines(), Writer("machines", settings.online))
    return settings


def declare(settings: RepoSettings, *others: TableDeclaration) -> None:
    """The tables of the repo as applied declarations, which is what ``asof apply`` would leave behind."""
    readings = TableDeclaration(
        "readings", "data/tables/readings", "delta", "read_at", "known_at", ("machine_id",), ("readings_push",),
        tags={
            "asof.id": "reading_id", "asof.column.reading_id": "int64", "asof.column.machine_id": "int64",
            "asof.column.site": "string", "asof.column.load": "float64", "asof.column.read_at": "timestamp",
            "asof.column.known_at": "timestamp", "asof.derive.known_at": "read_at + 1 microsecond",
        },
    )  # fmt: skip
    verdicts = TableDeclaration(
        "verdicts", "data/tables/verdicts", "delta", "judged_at", "known_at", ("machine_id",), (),
        tags={
            "asof.id": "reading_id", "asof.column.reading_id": "int64", "asof.column.machine_id": "int64",
            "asof.column.broken": "int8 in 0..1", "asof.column.read_at": "timestamp",
            "asof.column.judged_at": "timestamp", "asof.derive.judged_at": "read_at + 1 day",
            "asof.column.known_at": "timestamp", "asof.derive.known_at": "read_at + 1 day",
        },
    )  # fmt: skip
    registry = settings.data / "registry.db"
    registry.write_bytes(b"stands for a registry that holds what follows")
    found = Declarations({t.name: t for t in (readings, verdicts, *others)}, machines().views)
    _write(settings.data / CACHE, digest(settings, registry), settings.project, found)


@dataclass
class Service:
    """A service process.

    Attributes:
        settings: Its repo.
        process: What was started.
        port: Where it listens.
        log: Its output.
    """

    settings: RepoSettings
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    seconds: float = field(default=0.0)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, payload: Any = None, timeout: float = 30.0) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers of an answer; status 0 if there is none."""
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                return answer.status, _content(answer.read()), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, _content(error.read()), dict(error.headers)
        except (OSError, TimeoutError):
            return 0, None, {}

    def predict(self, *rows: dict[str, Any], **options: Any) -> tuple[int, Any, dict[str, str]]:
        """The answer to rows, by default to one that is known."""
        return self.ask("/predict", {"rows": list(rows) or [ROW], **options})

    def until(self, check: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until ``check`` holds."""
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def until_ready(self, status: int = 200) -> None:
        """Wait until it says that it is ready, or not."""
        self.until(lambda: self.ask("/readyz")[0] == status)

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        children = psutil.Process(self.process.pid).children()
        return [c for c in children if any("worker.service" in part for part in c.cmdline())]

    def logged(self) -> pa.Table:
        """The prediction log of the row's hour."""
        found = list(prediction_log.scan(self.settings.predictions, "breakdown", AT, AT + 1))
        return pa.concat_tables(found) if found else pa.table({"request_id": []})

    def stop(self) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def serving(settings: RepoSettings, log: Path, *arguments: str, **changed: str) -> Iterator[Service]:
    """``asof serve`` of the built model; stopped at the end of the block."""
    port = free_port()
    command = [sys.executable, "-m", "asof", "--repo", str(settings.path), "serve", "breakdown", "--port", str(port)]
    with running([*command, *arguments], settings, log, port, **changed) as service:
        yield service


@contextmanager
def running(command: list[str], settings: RepoSettings, log: Path, port: int, **changed: str) -> Iterator[Service]:
    """The service that a command starts; stopped at the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**changed), stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    service = Service(settings, process, port, log)
    try:
        yield service
    finally:
        _end(process)


def end_redis(settings: RepoSettings) -> None:
    """End the repo's Redis."""
    EmbeddedRedis(settings.online.folder).stop()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            for one in [*children, process]:
                one.kill()
            process.wait(10)


def _content(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
