"""What a worker counts, in Prometheus text: requests, rows, time, and the fate of every row of the prediction log.

BentoML's own request metrics are turned off: they label by raw path, so that anyone who asks for many paths makes the
process grow. Labels here come from closed sets.

Workers of one service add up through files in a folder of that service alone: BentoML's default folder is emptied whenever
another service of the same BentoML home starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil  # type: ignore[import-untyped]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder; without it there is one process and no folder."""

_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The metrics of one worker."""

    def __init__(self) -> None:
        self._in_files = FOLDER in os.environ
        if self._in_files:
            os.environ[FOLDER] = str(_own_folder())
        from prometheus_client import CollectorRegistry, Counter, Histogram, values

        # The library decides at its first import where values lie, and opens files once: maybe before the folder was ours.
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
            "asof_prediction_log_rows", "Rows of the prediction log: written, dropped, or failed for now.", ["outcome"],
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
    """A folder named after the process that started this worker, the same for all its workers."""
    base = Path(tempfile.gettempdir()) / f"asof-metrics-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    for other in base.iterdir():
        if not psutil.pid_exists(int(other.name.partition("-")[0])):
            shutil.rmtree(other, ignore_errors=True)
    parent = psutil.Process(os.getppid())
    folder = base / f"{parent.pid}-{int(parent.create_time())}"
    folder.mkdir(exist_ok=True)
    return folder
