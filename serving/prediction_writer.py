"""Writes the prediction log in a background thread, so that no response waits for the disk.

Scored rows enter a bounded queue; one thread writes them to files (:mod:`asof.prediction_log`). A file is started when the
oldest row has waited :attr:`~asof.serving.limits.Limits.log_seconds`, or as soon as :attr:`~asof.serving.limits.Limits.log_batch` rows wait.

What can be lost: a worker that is told to stop writes all waiting rows first. A worker that is killed (``kill -9``) loses the rows
of the last ``log_seconds`` (2 by default) and those that arrived while the last file was being written, at most ``log_rows``
rows. While the disk is full or not writable, up to ``log_rows`` rows wait; further rows are dropped and counted. Requests are
answered in every case.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from asof import prediction_log
from asof.contract import Contract
from asof.prediction_log import Entry
from asof.serving.limits import Limits
from asof.task import BINARY, Task

_log = logging.getLogger("asof.serving")

Count = Callable[[str, int], None]


def _uncounted(_outcome: str, _rows: int) -> None:
    """Count nothing."""


@dataclass
class PredictionWriter:
    """Writes the log of one worker. Call :meth:`start`, then :meth:`put` from any thread, then :meth:`stop`.

    Args:
        folder: Folder of all prediction logs.
        contract: The model's contract.
        model: Name of the model.
        version: Version of the model.
        limits: How long rows may wait, and how many.
        count: Called with ``written``, ``dropped`` or ``failed`` (a write that will be tried again) and a number of rows.
        task: What the model predicts.
        threshold: The lowest score whose decision is positive; None for a model that decides nothing.
    """

    folder: Path
    contract: Contract
    model: str
    version: str
    limits: Limits = field(default_factory=Limits)
    count: Count = _uncounted
    task: Task = BINARY
    threshold: float | None = None
    queued: int = field(default=0, init=False)
    """Rows that wait to be written or are being written."""

    _entries: list[Entry] = field(default_factory=list, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _stopping: bool = field(default=False, init=False)
    _failing: bool = field(default=False, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the writing thread."""
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> bool:
        """Queue the rows of a request; False if the queue was full and they were dropped."""
        rows = len(entry.at)
        with self._changed:
            if self.queued + rows <= self.limits.log_rows and not self._stopping:
                self._entries.append(entry)
                self.queued += rows
                if self.queued >= self.limits.log_batch or len(self._entries) == 1:
                    self._changed.notify()
                return True
        self.count("dropped", rows)
        return False

    def stop(self, timeout: float = 10.0) -> None:
        """Write all waiting rows and end; rows not written within ``timeout`` seconds are counted as dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)
        with self._changed:
            lost, self.queued = self.queued, 0
        if lost:
            self.count("dropped", lost)
            _log.error("prediction log: %d rows could not be written before the worker ended", lost)

    def _run(self) -> None:
        prediction_log.remove_leftovers(self.folder, self.model)
        while True:
            batch = self._next()
            if batch and not self._write(batch):
                with self._changed:
                    self._entries[:0] = batch
                    if self._stopping:
                        return
                    self._changed.wait(self.limits.log_seconds)
            elif not batch:
                return

    def _next(self) -> list[Entry]:
        """The entries of the next file; empty after :meth:`stop` when everything is written."""
        with self._changed:
            while not self._entries and not self._stopping:
                self._changed.wait()
            due = time.monotonic() + self.limits.log_seconds
            while not self._stopping and self.queued < self.limits.log_batch and (left := due - time.monotonic()) > 0:
                self._changed.wait(left)
            batch, self._entries = self._entries, []
            return batch

    def _write(self, batch: list[Entry]) -> bool:
        rows = sum(len(e.at) for e in batch)
        try:
            prediction_log.write(
                self.folder,
                self.model,
                prediction_log.to_table(self.contract, self.model, self.version, batch, self.task, self.threshold),
            )
        except OSError as error:
            self._failed(rows, error)
            return False
        except Exception as error:  # noqa: BLE001 - a row that cannot be written must not stop the log
            _log.error("prediction log: %d rows cannot be written: %s", rows, type(error).__name__)
            self._finish(rows, "dropped")
            return True
        self._finish(rows, "written")
        if self._failing:
            self._failing = False
            _log.warning("prediction log: writing again")
        return True

    def _failed(self, rows: int, error: OSError) -> None:
        self.count("failed", rows)
        if not self._failing:
            self._failing = True
            _log.error("prediction log: cannot write to %s (%s); trying again", self.folder, error.strerror or error)

    def _finish(self, rows: int, outcome: str) -> None:
        with self._changed:
            self.queued -= rows
        self.count(outcome, rows)
