"""The performance of served predictions, once their labels are known.

A served row gets the label of the table row with the same keys and moment; of several such rows, the one whose id is the
request's id. The metrics are those of the model's task (:mod:`asof.statistics.metrics`) and calibration, with the 95 % intervals
of :mod:`asof.statistics.intervals`. A metric is worse than at training when the two intervals do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from asof.bundle import Bundle
from asof.contract import Source
from asof.errors import BundleError, SourceError
from asof.monitoring.observed import Log, Window, judged_code, told
from asof.offline.duckdb_engine import EngineSettings, asking, quoted
from asof.offline.sources import SourceFiles, open_files
from asof.prediction_log import output_columns
from asof.quantities import counted
from asof.rendering import Rendered, ResultTable
from asof.statistics.design_effect import dense, hashes
from asof.statistics.intervals import drawn_weights, interval
from asof.statistics.metrics import SMALLER_IS_BETTER, default_metrics, prepare
from asof.task import Multiclass, Quantiles, Ranking, Task

GROUPS = 10
"""Groups of equal size, by score, in which calibration is shown."""

LEAST = 10
"""Positive and negative labels that the metrics need."""

CALIBRATION = {
    "binary": ("rows", "mean score", "share of positives"),
    "multiclass": ("rows", "mean probability", "share right"),
    "regression": ("rows", "mean prediction", "mean label"),
    "quantiles": ("rows", "level", "share of labels below"),
    "ranking": ("rows", "mean score", "mean label"),
}
"""Kind of task -> what the figures of a group of calibration are."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A metric in the window and at training.

    Attributes:
        name: Name of the metric.
        value: Its value in the window.
        low: Lower end of its 95 % interval.
        high: Upper end.
        trained: Its value on the test rows at training; None where the bundle has none, likewise for the next two.
        trained_low: Lower end at training.
        trained_high: Upper end at training.
    """

    name: str
    value: float
    low: float
    high: float
    trained: float | None = None
    trained_low: float | None = None
    trained_high: float | None = None

    @property
    def worse(self) -> bool:
        """Whether the window is worse than training and the two intervals do not overlap."""
        if self.trained_low is None or self.trained_high is None:
            return False
        return self.low > self.trained_high if self.name in SMALLER_IS_BETTER else self.high < self.trained_low


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of neighbouring scores: their number, and what was predicted beside what happened, see :data:`CALIBRATION`."""

    rows: int
    score: float
    rate: float


@dataclass(frozen=True, slots=True, repr=False)
class PerformanceReport(Rendered):
    """What :func:`performance` found.

    Attributes:
        model: Name of the model.
        version: Version of its bundle.
        task: Kind of its task.
        window: The moments that were asked for.
        rows: Predictions in the window.
        labelled: Those whose label is known.
        ambiguous: Those with several candidate labels that contradict each other; they are left out.
        positives: Positive labels; None where labels are not yes or no.
        figures: Metrics; empty with too few labels of a kind.
        calibration: Groups of neighbouring scores, lowest first.
        left_out: Test rows that training left out of its metrics; the window leaves out none.
        problems: Files of the log that could not be read.
    """

    model: str
    version: str
    task: str
    window: Window
    rows: int
    labelled: int
    ambiguous: int
    positives: int | None
    figures: tuple[MetricComparison, ...]
    calibration: tuple[Group, ...]
    left_out: int
    problems: tuple[str, ...]

    @property
    def worse(self) -> list[str]:
        """Metrics that are worse than at training."""
        return [figure.name for figure in self.figures if figure.worse]

    @property
    def summary(self) -> str:
        """The answer in one sentence."""
        known = f"{self.labelled:,} of {counted(self.rows, 'prediction')} have labels"
        known += "" if self.positives is None else f", {self.positives:,} positive"
        if not self.figures:
            least = f"{LEAST} of each kind" if self.positives is not None else f"{2 * LEAST}, and different ones"
            return f"{known}: too few to judge (at least {least})"
        return f"{known}: " + (
            f"worse than at training in {', '.join(self.worse)}" if self.worse else "as good as at training"
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        figures = [{**asdict(figure), "worse": figure.worse} for figure in self.figures]
        return {
            **asdict(self),
            "window": self.window.to_dict(),
            "figures": figures,
            "worse": self.worse,
            "summary": self.summary,
        }

    @property
    def exit_code(self) -> int:
        """1 if a metric is worse than at training; see :func:`asof.monitoring.observed.judged_code`."""
        return judged_code(self.problems, judged=bool(self.figures), alarm=bool(self.worse))

    def parts(self) -> Iterator[str | ResultTable]:
        """The summary, a line for each metric, and the calibration."""
        rows = [
            (f.name, f.value, _interval(f.low, f.high), f.trained, _interval(f.trained_low, f.trained_high), f.worse)
            for f in self.figures
        ]
        yield from (f"{self.model} {self.version}, {self.window}", self.summary)
        if self.figures:
            header = ("metric", "value", "95 % interval", "trained", "95 % interval", "worse")
            yield from ("", ResultTable(header, rows), "", "Calibration:")
            groups = [(g.rows, g.score, g.rate) for g in self.calibration]
            yield ResultTable(CALIBRATION[self.task], groups)
        if self.figures and self.left_out:
            yield f"- The metrics at training leave out {self.left_out:,} test rows, those here leave out none."
        yield from told(self.problems)


def performance(
    log: Log, window: Window, repo: Path, data: Path, advance: Callable[[int], None] = lambda _: None
) -> PerformanceReport:
    """Evaluate the window's predictions by the labels that are known now.

    Args:
        log: The log.
        window: The moments to look at.
        repo: Folder of the feature repo.
        data: Folder of asof's data; tables that no view reads are looked up in its ``tables``.
        advance: Called with the number of rows matched, for progress.

    Raises:
        NotFoundError: There is no log of this model.
        BundleError: The bundle does not say where labels are.
        SourceError: A table cannot be read.
    """
    task = log.bundle.task
    found = _labelled(log, window, _Labels.open(log, repo, data), advance)
    label, outputs = found.label, found.outputs
    binary = task.kind == "binary"
    spread = len(label) >= 2 * LEAST and len(np.unique(label)) > 1
    enough = min(label.sum(), (1 - label).sum()) >= LEAST if binary else spread
    return PerformanceReport(
        model=log.bundle.model,
        version=log.bundle.version,
        task=task.kind,
        window=window,
        rows=found.rows,
        labelled=len(label),
        ambiguous=found.ambiguous,
        positives=int(label.sum()) if binary else None,
        figures=tuple(_figures(log.bundle, found)) if enough else (),
        calibration=tuple(_calibration(task, label, outputs)) if len(label) else (),
        left_out=int(log.bundle.metadata.get("split", {}).get("test_left_out", 0)),
        problems=tuple(log.problems),
    )


@dataclass(frozen=True)
class _LabelledRows:
    """The n served rows whose labels are known, of ``rows`` in the window; ``units`` are dense codes of what is drawn together."""

    rows: int
    ambiguous: int
    label: Floats
    outputs: Floats
    units: npt.NDArray[np.int64]


def _labelled(log: Log, window: Window, labels: _Labels, advance: Callable[[int], None]) -> _LabelledRows:
    """Rows of a ranking are drawn by group, others by the first key."""
    given, unit = (
        output_columns(log.bundle.task),
        _group_column(log) or (f"key.{labels.keys[0]}" if labels.keys else None),
    )
    columns = ["request_id", "at", *given, *(f"key.{name}" for name in labels.keys), *([unit] if unit else [])]
    rows, ambiguous = 0, 0
    kept: list[tuple[Floats, Floats, npt.NDArray[np.uint64]]] = []
    for batch in log.batches(window, list(dict.fromkeys(columns))):
        label, contradictory = labels.of(batch)
        known = ~np.isnan(label)
        units = hashes(batch[unit]) if unit else np.arange(rows, rows + len(label), dtype=np.uint64)
        outputs = np.column_stack([batch[name].to_numpy() for name in given])
        kept.append((label[known], outputs[known], units[known]))
        rows, ambiguous = rows + batch.num_rows, ambiguous + contradictory
        advance(batch.num_rows)
    return _LabelledRows(
        rows=rows,
        ambiguous=ambiguous,
        label=np.concatenate([np.empty(0), *(label for label, _, _ in kept)]),
        outputs=np.concatenate([np.empty((0, len(given))), *(outputs for _, outputs, _ in kept)]),
        units=dense(np.concatenate([np.empty(0, np.uint64), *(units for _, _, units in kept)])),
    )


def _calibration(task: Task, label: Floats, outputs: Floats) -> list[Group]:
    if isinstance(task, Quantiles):
        below = (label[:, None] <= outputs).mean(axis=0).tolist()
        return [Group(len(label), level, rate) for level, rate in zip(task.levels, below, strict=True)]
    if isinstance(task, Multiclass):
        return calibration((outputs.argmax(axis=1) == label).astype(np.float64), task.score(outputs))
    return calibration(label, task.score(outputs))


def calibration(label: Floats, score: Floats, groups: int = GROUPS) -> list[Group]:
    """Mean score and mean label in groups of equal size, by score."""
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, groups) if len(part)]
    return [Group(len(part), float(score[part].mean()), float(label[part].mean())) for part in parts]


def _group_column(log: Log) -> str | None:
    """The column of the log that tells the groups of a ranking."""
    task = log.bundle.task
    if not isinstance(task, Ranking):
        return None
    return f"{'key' if task.group in {k.name for k in log.bundle.contract.keys} else 'request'}.{task.group}"


def _figures(bundle: Bundle, found: _LabelledRows) -> Iterator[MetricComparison]:
    task, trained = bundle.task, bundle.metadata.get("metrics", {})
    label = found.label
    metrics = {name: prepare(name, task, label, found.outputs, found.units) for name in default_metrics(task)}
    draws = [{name: metric(weights) for name, metric in metrics.items()} for weights in drawn_weights(found.units)]
    for name, metric in metrics.items():
        value = float(metric(np.ones((1, len(label))))[0])
        low, high = interval(value, np.concatenate([draw[name] for draw in draws]))
        before = trained.get(name, {})
        yield MetricComparison(name, value, low, high, *(before.get(part) for part in ("value", "low", "high")))


@dataclass(frozen=True)
class _Labels:
    """Where the labels of served rows are: SQL over the tables of the bundle's ``rows``."""

    repo: Path
    keys: tuple[str, ...]
    tables: str
    sql: str
    task: Task

    @classmethod
    def open(cls, log: Log, repo: Path, data: Path) -> _Labels:
        rows = log.bundle.metadata.get("rows")
        if not rows or not rows.get("label"):
            raise BundleError(
                f"the bundle of {log.bundle.model!r} does not say where its labels are; train again with `asof train`"
            )
        sources = {view.source.name: view.source for view in log.bundle.contract.views}
        names = rows["table"], rows.get("label_table") or rows["table"]
        scored, labels = (open_files(sources.get(name) or _written(name, data), repo) for name in names)
        keys = tuple(rows["keys"])
        tables = " and ".join(dict.fromkeys((scored.source, labels.source)))
        return cls(repo, keys, tables, _sql(rows, keys, scored, labels, log.bundle.task), log.bundle.task)

    def of(self, batch: pa.Table) -> tuple[Floats, int]:
        """Label of each row of ``batch``, NaN for unknown, and how many are unknown because candidates contradict each other."""
        served = {f"k{i}": batch[f"key.{name}"] for i, name in enumerate(self.keys)}
        served |= {
            "i": pa.array(np.arange(batch.num_rows)),
            "request_id": batch["request_id"],
            "at": batch["at"].cast(pa.int64()),
        }
        connection = EngineSettings.load(self.repo).connect(self.repo)
        try:
            with asking(f"labels of {self.tables}"):
                connection.register("served", pa.table(served))
                found = connection.sql(self.sql).to_arrow_table()
        finally:
            connection.close()
        label = np.full(batch.num_rows, np.nan)
        label[found["i"].to_numpy()] = self._numbers(found["label"])
        return label, int(np.isnan(label[found["i"].to_numpy()]).sum())

    def _numbers(self, label: pa.ChunkedArray) -> Floats:
        """Labels as numbers; NaN for a class that the model does not know."""
        if isinstance(self.task, Multiclass):
            label = pc.index_in(label, value_set=pa.array(self.task.classes))
        return np.asarray(label.cast(pa.float64()).to_numpy(), np.float64)


def _written(name: str, data: Path) -> Source:
    folder = data / "tables" / name
    if not folder.is_dir():
        raise SourceError(
            f"table {name!r} with the labels is not in {folder.parent}; ingest it with `asof ingest {name} FILE`"
        )
    return Source(name, str(folder), "delta", "")


def _sql(rows: Mapping[str, Any], keys: tuple[str, ...], scored: SourceFiles, labels: SourceFiles, task: Task) -> str:
    """One row (i, label) for each served row that has candidates; label is null where they contradict each other."""
    identity, label = quoted(rows["id"]), quoted(rows["label"])
    apart = scored.source != labels.source
    own = f"JOIN {labels.scan} l ON l.{identity} = r.{identity}" if apart else ""
    value = f"{'l' if apart else 'r'}.{label}"
    dtype = "VARCHAR" if isinstance(task, Multiclass) else "DOUBLE"
    named = "".join(f", r.{quoted(name)} AS k{i}" for i, name in enumerate(keys))
    known = (
        f"SELECT CAST(r.{identity} AS VARCHAR) AS id, epoch_us(r.{quoted(rows['event_time'])}) AS at, "
        f"CAST({value} AS {dtype}) AS label{named} FROM {scored.scan} r {own} WHERE {value} IS NOT NULL"
    )
    match = " AND ".join(["s.at = n.at", *(f"s.k{i} = n.k{i}" for i in range(len(keys)))])
    return (
        f"WITH n AS ({known}), c AS (SELECT s.i, n.label, n.id = s.request_id AS named FROM served s JOIN n ON {match}) "
        "SELECT i, coalesce(max(label) FILTER (named), CASE WHEN min(label) = max(label) THEN min(label) END) AS label FROM c GROUP BY i"
    )


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"
