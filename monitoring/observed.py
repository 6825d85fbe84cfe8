"""Counts of what a model saw in a window of time, from its prediction log, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from asof import prediction_log
from asof.bundle import Bundle
from asof.errors import NotFoundError
from asof.instants import format_moment
from asof.statistics import design_effect, histograms

STATUSES = ("present", "null", "stale", "not found", "not kept")
"""Names of the online store's statuses 0 to 4; stale means older than the view's ttl."""

BATCH = 100_000
"""Rows counted or recomputed at a time."""

BEGINNING = -62_135_596_800_000_000
END = 253_402_300_799_000_000
"""The first and the last second of the calendar in microseconds: the bounds of an open window."""


@dataclass(frozen=True, slots=True)
class Window:
    """The moments from ``start`` to just before ``end``, in microseconds UTC, by the requests' own time."""

    start: int = BEGINNING
    end: int = END

    def __str__(self) -> str:
        first = "the beginning" if self.start == BEGINNING else format_moment(self.start)
        last = "now" if self.end == END else format_moment(self.end)
        return f"{first} to {last}"

    def to_dict(self) -> dict[str, str | None]:
        """The window as JSON-ready data; None for an open end."""
        return {
            "from": None if self.start == BEGINNING else format_moment(self.start),
            "to": None if self.end == END else format_moment(self.end),
        }


@dataclass(frozen=True, slots=True)
class Log:
    """The prediction log of one version of a model."""

    folder: Path
    bundle: Bundle
    problems: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Check that the model has a log.

        Raises:
            NotFoundError: There is no log of this model.
        """
        known = sorted(p.name for p in self.folder.iterdir() if p.is_dir()) if self.folder.is_dir() else []
        if self.bundle.model not in known:
            raise NotFoundError(f"prediction log in {self.folder}", self.bundle.model, known)

    def versions(self, window: Window) -> list[str]:
        """The versions of the model that have predictions in the window, oldest first.

        Raises:
            NotFoundError: There is no log of this model.
        """
        self.check()
        scanned = prediction_log.scan(
            self.folder, self.bundle.model, window.start, window.end, ["model_version"], self.problems.append
        )
        return sorted({str(version) for table in scanned for version in pc.unique(table["model_version"]).to_pylist()})

    def batches(self, window: Window, columns: list[str] | None = None, rows: int = BATCH) -> Iterator[pa.Table]:
        """The version's rows in the window by moment's hour, about ``rows`` at a time, because busy logs have many small files.

        Raises:
            NotFoundError: There is no log of this model.
        """
        held: list[pa.Table] = []
        for table in self.scan(window, columns):
            held.append(table)
            if sum(part.num_rows for part in held) >= rows:
                yield pa.concat_tables(held)
                held = []
        if held:
            yield pa.concat_tables(held)

    def scan(self, window: Window, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The version's rows in the window, file by file; files that cannot be read are added to :attr:`problems`.

        Raises:
            NotFoundError: There is no log of this model.
        """
        self.check()
        wanted = None if columns is None else list(dict.fromkeys([*columns, "model_version"]))
        scanned = prediction_log.scan(
            self.folder, self.bundle.model, window.start, window.end, wanted, self.problems.append
        )
        for table in scanned:
            kept = table.filter(pc.equal(table["model_version"], self.bundle.version))
            if kept.num_rows:
                yield kept


@dataclass(slots=True)
class Observed:
    """Counts of the predictions in a window.

    Attributes:
        rows: Predictions.
        first: Earliest moment, microseconds; None without rows.
        last: Latest moment.
        features: Counts of the features under the reference's cells.
        outputs: Counts of what the model gave, by column of the log.
        statuses: Feature -> int64[5], rows by status (:data:`STATUSES`).
        effects: Column of the log (features and outputs) -> its design effects.
        keys: Entity key -> estimated number of distinct values.
    """

    rows: int
    first: int | None
    last: int | None
    features: histograms.Histogram
    outputs: histograms.Histogram
    statuses: dict[str, npt.NDArray[np.int64]]
    effects: dict[str, design_effect.ColumnEffects]
    keys: dict[str, int]


def unused(name: str, taken: Collection[str]) -> str:
    """``name``, prefixed with underscores until it is not in ``taken``."""
    while name in taken:
        name = f"_{name}"
    return name


def observe(log: Log, window: Window, advance: Callable[[int], None] = lambda _: None) -> Observed:
    """Count the window's predictions under the bundle's reference.

    Args:
        log: The log.
        window: The moments to count.
        advance: Called with the number of rows counted, for progress.

    Raises:
        NotFoundError: There is no log of this model.
        BundleError: The reference has another layout.
        SchemaError: The log's values do not fit the reference.
    """
    counter = _Counter(log.bundle)
    for table in log.batches(window, counter.columns):
        counter.add(table)
        advance(table.num_rows)
    return counter.observed()


class _Counter:
    def __init__(self, bundle: Bundle) -> None:
        contract, reference = bundle.contract, bundle.reference
        self._features, self._outputs = reference["features"], reference["score"]
        self._names = list(self._features["columns"])
        self._keys = [key.name for key in contract.keys]
        self._counted = histograms.empty(self._features), histograms.empty(self._outputs)
        self._statuses = {name: np.zeros(len(STATUSES), np.int64) for name in self._names}
        self._samples = {name: design_effect.Sample() for name in self._keys}
        self._span: tuple[int | None, int | None] = (None, None)
        self.columns = ["at", *self._outputs["columns"], *(f"key.{name}" for name in self._keys)]
        self.columns += [f"{part}.{name}" for part in ("feature", "status") for name in self._names]

    def add(self, table: pa.Table) -> None:
        features = histograms.codes(self._features, {name: table[f"feature.{name}"] for name in self._names})
        outputs = histograms.codes(self._outputs, {name: table[name] for name in self._outputs["columns"]})
        before, counted = self._counted, histograms.tally(self._features, features)
        given = histograms.tally(self._outputs, outputs)
        self._counted = histograms.merge([before[0], counted]), histograms.merge([before[1], given])
        for name in self._names:
            found = np.bincount(table[f"status.{name}"].to_numpy(), minlength=len(STATUSES))
            self._statuses[name] += found[: len(STATUSES)]
        for name, sample in self._samples.items():
            sample.add(table[f"key.{name}"], {**{f"feature.{f}": cells for f, cells in features.items()}, **outputs})
        self._extend(table["at"])

    def _extend(self, at: pa.ChunkedArray) -> None:
        extremes = pc.min_max(at.cast(pa.int64())).as_py()
        first, last = self._span
        self._span = (
            extremes["min"] if first is None else min(first, extremes["min"]),
            extremes["max"] if last is None else max(last, extremes["max"]),
        )

    def observed(self) -> Observed:
        features, outputs = self._counted
        effects, keys = self._measured()
        return Observed(features["rows"], *self._span, features, outputs, self._statuses, effects, keys)

    def _measured(self) -> tuple[dict[str, design_effect.ColumnEffects], dict[str, int]]:
        columns = {f"feature.{name}": column for name, column in self._features["columns"].items()}
        columns |= self._outputs["columns"]
        effects = dict.fromkeys(columns, design_effect.ColumnEffects())
        keys: dict[str, int] = {}
        for name, sample in self._samples.items():
            code, cells = sample.rows()
            keys[name] = sample.clusters(int(code.max()) + 1 if len(code) else 0)
            if cells:
                found = design_effect.column_effects({"columns": columns}, cells, {name: code})
                effects = {column: _larger(effects[column], found[column]) for column in columns}
        return effects, keys


def _larger(one: design_effect.ColumnEffects, other: design_effect.ColumnEffects) -> design_effect.ColumnEffects:
    def larger(left: design_effect.DesignEffect, right: design_effect.DesignEffect) -> design_effect.DesignEffect:
        return max(left, right, key=lambda design: design.effect)

    return design_effect.ColumnEffects(larger(one.values, other.values), larger(one.missing, other.missing))


NOTHING_TO_JUDGE = 4
"""Exit code where the span has no predictions, or none whose label is known."""


def judged_code(problems: Sequence[str], *, judged: bool, alarm: bool) -> int:
    """The exit code for one version: 1 for an alarm, 3 where its log could not be read, 4 where there is nothing to judge."""
    if judged:
        return int(alarm)
    return 3 if problems else NOTHING_TO_JUDGE


SHOWN = 3
"""Problems that are listed one by one."""


def told(problems: Sequence[str]) -> list[str]:
    """The problems as lines for a terminal: the first few, and the number of the others."""
    more = len(problems) - SHOWN
    return [f"- {line}" for line in problems[:SHOWN]] + (
        [f"- and {more:,} more files; --json lists all"] if more > 0 else []
    )
