"""Writes whylogs profiles of the prediction log: one file for each hour or day, rewritten only when the log changed.

Files are ``<profiles>/<model>/<version>/<YYYY-MM-DD>.bin`` or ``<YYYY-MM-DDTHH>.bin``, in whylogs' own format. The metadata
of a profile has a digest of the log files that it covers; while they are the same, the profile is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from asof import prediction_log
from asof.errors import SourceError
from asof.instants import DAY, SECOND, format_moment, parse_moment
from asof.monitoring.observed import END, Log, Window, judged_code, told, unused
from asof.rendering import Rendered, ResultTable
from asof.statistics import profiles

Unit = Literal["hour", "day"]
SPANS: dict[Unit, int] = {"hour": 3_600 * SECOND, "day": DAY}
ROWS = "asof.rows"
"""Metadata of a profile: its number of rows."""

SEEN = "asof.log"
"""Metadata of a profile: a digest of the names of the log's files that it covers (a file of the log never changes)."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """One profile: its file, its first moment, its number of rows, and whether this run wrote it."""

    path: str
    start: str
    rows: int
    written: bool


@dataclass(frozen=True, slots=True, repr=False)
class ProfileReport(Rendered):
    """What :func:`profile` did."""

    model: str
    version: str
    profiles: tuple[Profiled, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        rows = sum(p.rows for p in self.profiles)
        return {**asdict(self), "rows": rows, "written": sum(p.written for p in self.profiles)}

    @property
    def exit_code(self) -> int:
        """See :func:`asof.monitoring.observed.judged_code`."""
        return judged_code(self.problems, judged=bool(self.profiles), alarm=False)

    def parts(self) -> Iterator[str | ResultTable]:
        """A line for each profile."""
        rows = [(p.start, p.rows, "written" if p.written else "unchanged", p.path) for p in self.profiles]
        yield from (f"{self.model} {self.version}", ResultTable(("from", "rows", "profile", "file"), rows))
        yield from told(self.problems)


def profile(
    log: Log, window: Window, folder: Path, unit: Unit = "day", advance: Callable[[int], None] = lambda _: None
) -> ProfileReport:
    """Profile the hours or days that overlap the window; a profile always covers a whole unit.

    Args:
        log: The log.
        window: The moments to look at.
        folder: Folder of all profiles.
        unit: Period of one profile.
        advance: Called with the number of rows that were profiled, for progress.

    Raises:
        NotFoundError: There is no log of this model.
    """
    done = []
    target = folder / log.bundle.model / log.bundle.version
    log.check()
    for start in _starts(log, window, unit):
        part = Window(start, start + SPANS[unit])
        path = target / f"{format_moment(start)[: 13 if unit == 'hour' else 10]}.bin"
        seen = _seen(log, part)
        known = _rows_of(path, seen)
        rows = _write(log, part, path, seen) if known is None else known
        if rows:
            done.append(Profiled(str(path), format_moment(start), rows, known is None))
        advance(rows)
    return ProfileReport(log.bundle.model, log.bundle.version, tuple(done), tuple(log.problems))


def _starts(log: Log, window: Window, unit: Unit) -> list[int]:
    """First moments of the units for which the log has files."""
    span = SPANS[unit]
    first = window.start // span * span
    last = min(END, -(-window.end // span) * span)
    files = prediction_log.files(log.folder, log.bundle.model, first, last)
    hours = {parse_moment(f"{file.parent.name.removeprefix('hour=')}:00") for file in files}
    return sorted({hour // span * span for hour in hours})


def _seen(log: Log, part: Window) -> str:
    files = prediction_log.files(log.folder, log.bundle.model, part.start, part.end)
    return hashlib.sha256("\n".join(f"{f.parent.name}/{f.name}" for f in files).encode()).hexdigest()[:16]


def _rows_of(path: Path, seen: str) -> int | None:
    """Rows of the profile at ``path`` if it covers the same files; else None."""
    try:
        view = profiles.read(path)
    except (OSError, SourceError):
        return None
    return int(view.metadata.get(ROWS, 0)) if view.metadata.get(SEEN) == seen else None


def _write(log: Log, part: Window, path: Path, seen: str) -> int:
    contract = log.bundle.contract
    counted = _Counted(log, part)
    first = next(counted, None)
    if first is None:
        return 0
    tags = {"model": log.bundle.model, "version": log.bundle.version, SEEN: seen}
    extra = dict.fromkeys(counted.outputs, "float64")
    view = profiles.profile(chain([first], counted), contract, extra=extra, moment=part.start, metadata=tags)
    profiles.write(path, profiles.tagged(view, {ROWS: str(counted.rows)}))
    return counted.rows


class _Counted(Iterator[pa.Table]):
    """Batches of features and outputs under their own names; counts the rows."""

    def __init__(self, log: Log, part: Window) -> None:
        names = log.bundle.contract.feature_names
        logged = {column: unused(column, names) for column in prediction_log.output_columns(log.bundle.task)}
        self.outputs, self.rows = tuple(logged.values()), 0
        self._names = {**logged, **{f"feature.{name}": name for name in names}}
        self._batches = log.batches(part, list(self._names))

    def __next__(self) -> pa.Table:
        batch = next(self._batches)
        self.rows += batch.num_rows
        return pa.table({name: batch[logged] for logged, name in self._names.items()})
