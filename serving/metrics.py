"""Prometheus metrics of a worker: requests, rows, latency, and what became of each row of the prediction log.

BentoML's own request metrics are turned off: they use the raw path as a label, so requests to many paths would make the
process grow. Labels here come from fixed sets.

The workers of one service share their counts through files in a folder of that service. BentoML's default folder is not used,
because it is emptied whenever another service of the same BentoML home starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil  # type: ignore[import-untyped]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder; without it counts stay in the process."""

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The metrics of one worker."""

    def __init__(self) -> None:
        self._in_files = FOLDER in os.environ
        if self._in_files:
            os.environ[FOLDER] = str(_own_folder())
        from prometheus_client import CollectorRegistry, Counter, Histogram, values

        # The library chooses its storage when it is first imported, which may be before the folder was set.
        values.ValueClass = values.MultiProcessValue() if self._in_files else values.MutexValue  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "asof_service_requests", "Requests by endpoint and HTTP status.", ["endpoint", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "asof_service_request_seconds", "Seconds from request to answer, predictions only.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.rows = Counter("asof_service_rows", "Rows that were scored.", registry=self._registry)
        self.log_rows = Counter(
            "asof_prediction_log_rows", "Rows of the prediction log: written, dropped, or failed and to be tried again.", ["outcome"],
            registry=self._registry,
        )  # fmt: skip
        for outcome in ("written", "dropped", "failed"):
            self.log_rows.labels(outcome)

    def count_log(self, outcome: str, rows: int) -> None:
        """Count rows of the prediction log."""
        self.log_rows.labels(outcome).inc(rows)

    def text(self) -> tuple[bytes, str]:
        """All metrics of all workers of the service, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if self._in_files:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST


def _own_folder() -> Path:
    """A folder named after this worker's parent process, hence shared by all workers of the service."""
    base = Path(tempfile.gettempdir()) / f"asof-metrics-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    for other in base.iterdir():
        if not psutil.pid_exists(int(other.name.partition("-")[0])):
            shutil.rmtree(other, ignore_errors=True)
    parent = psutil.Process(os.getppid())
    folder = base / f"{parent.pid}-{int(parent.create_time())}"
    folder.mkdir(exist_ok=True)
    return folder
