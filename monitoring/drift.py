"""Drift: compares served features and scores with those of the training rows.

:func:`drift` counts the prediction log of a window under the cells that training froze, compares every feature twice (the values where
present, and how many are missing) and the scores once, and judges all comparisons as one family (:mod:`asof.monitoring.comparison`).
Stale values are withheld by both stores, so they are missing in training and in serving alike; their share is reported separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asof.instants import DAY, SECOND, format_moment, format_span
from asof.monitoring.comparison import SEVERITY, Comparison, Rule, Verdict, compare, holm, judge
from asof.monitoring.observed import STATUSES, Log, Observed, Window, judged_code, observe, told
from asof.quantities import counted
from asof.rendering import Rendered, ResultTable
from asof.statistics import histograms
from asof.statistics.design_effect import LEAST_CLUSTERS, ColumnEffects
from asof.statistics.reference import trained_effects

HOUR = 3_600 * SECOND
SHORT = 7 * DAY
"""Windows shorter than a week lack some weekdays, so calendar features seem to drift."""


@dataclass(frozen=True, slots=True)
class DriftFinding:
    """One comparison and its verdict.

    Attributes:
        measure: ``values`` (where present) or ``missing`` (how many are).
        comparison: Statistic, p-value and effect.
        adjusted: The p-value adjusted for the whole family by Holm's method.
        verdict: The verdict.
    """

    measure: str
    comparison: Comparison
    adjusted: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """A feature, or an output of the model, in training and in serving.

    Attributes:
        name: Name of the feature, or ``score``, or of several outputs ``output`` and its name.
        source: The view that it comes from; empty for an output.
        findings: The judged comparisons.
        reference: Its histogram at training.
        serving: Its histogram in the window, same cells.
        change: The cell whose share changed most, in words.
        statuses: Status -> share of the window's rows; empty for an output.
    """

    name: str
    source: str
    findings: tuple[DriftFinding, ...]
    reference: Mapping[str, Any]
    serving: Mapping[str, Any]
    change: str
    statuses: Mapping[str, float]

    @property
    def worst(self) -> DriftFinding:
        """The finding to act on first."""
        return min(self.findings, key=lambda f: (SEVERITY[f.verdict], -f.comparison.effect))

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the findings."""
        return self.worst.verdict


@dataclass(frozen=True, slots=True, repr=False)
class DriftReport(Rendered):
    """What :func:`drift` found; columns are sorted by severity.

    Attributes:
        model: Name of the model.
        version: Version of its bundle.
        window: The moments that were asked for.
        first: Earliest moment that was seen, microseconds; None without rows.
        last: Latest moment that was seen.
        rows: Predictions in the window.
        reference_rows: Training rows in the reference.
        rule: Thresholds for drift.
        columns: Features and outputs.
        problems: Files of the log that could not be read.
        advice: What to do next, a sentence each.
        page: File of the HTML report; None if none was written.
    """

    model: str
    version: str
    window: Window
    first: int | None
    last: int | None
    rows: int
    reference_rows: int
    rule: Rule
    columns: tuple[ColumnDrift, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...]
    page: Path | None = None

    def named(self, verdict: Verdict) -> list[str]:
        """Names of the columns with this verdict."""
        return [column.name for column in self.columns if column.verdict == verdict]

    @property
    def drifted(self) -> bool:
        """Whether any column drifted."""
        return bool(self.named(Verdict.DRIFT))

    @property
    def summary(self) -> str:
        """The answer in one sentence."""
        if not self.rows:
            return "no predictions in this window, so nothing can be said"
        counts = {verdict: len(self.named(verdict)) for verdict in Verdict}
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return f"{counted(self.rows, 'prediction')} against {counted(self.reference_rows, 'training row')}; {counted(len(self.columns), 'column')}: {said}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "model": self.model,
            "version": self.version,
            "window": self.window.to_dict(),
            "seen": {"first": _moment(self.first), "last": _moment(self.last)},
            "rows": self.rows,
            "reference_rows": self.reference_rows,
            "drift": self.drifted,
            "summary": self.summary,
            "advice": list(self.advice),
            "problems": list(self.problems),
            "rule": {**asdict(self.rule), "correction": "Holm", "effect": "Hellinger distance"},
            "columns": [_column_data(column) for column in self.columns],
            **({} if self.page is None else {"report": str(self.page)}),
        }

    @property
    def exit_code(self) -> int:
        """1 if something drifted; see :func:`asof.monitoring.observed.judged_code`."""
        return judged_code(self.problems, judged=self.rows > 0, alarm=self.drifted)

    def parts(self) -> Iterator[str | ResultTable]:
        """The summary, a line for each column, and what to do next."""
        header = ("column", "from", "verdict", "effect", "p (adjusted)", "missing", "what changed most")
        rows = [
            (
                c.name,
                c.source or "model",
                str(c.verdict),
                c.worst.comparison.effect,
                _p(c.worst.adjusted),
                _missing(c),
                c.change,
            )
            for c in self.columns
        ]
        yield from (f"{self.model} {self.version}, {self.window}", self.summary, "", ResultTable(header, rows))
        if hints := [*(f"- {line}" for line in self.advice), *told(self.problems)]:
            yield from ("", *hints)
        if self.page is not None:
            yield from ("", f"Report: {self.page}")


def drift(
    log: Log, window: Window, rule: Rule | None = None, advance: Callable[[int], None] = lambda _: None
) -> DriftReport:
    """Compare a window of the prediction log with the training reference.

    Args:
        log: The log, with the bundle whose reference counts.
        window: The moments to look at.
        rule: Thresholds for drift.
        advance: Called with the number of rows that were counted, for progress.

    Raises:
        NotFoundError: There is no log of this model.
        BundleError: The reference has another layout.
        SchemaError: The log's values do not fit the reference.
    """
    chosen = rule or Rule()
    observed = observe(log, window, advance)
    few_keys = _few_keys(log.bundle.reference, observed)
    columns = tuple(sorted(_columns(log, observed, chosen, judged=not few_keys), key=_order))
    return DriftReport(
        model=log.bundle.model,
        version=log.bundle.version,
        window=window,
        first=observed.first,
        last=observed.last,
        rows=observed.rows,
        reference_rows=int(log.bundle.reference["features"]["rows"]),
        rule=chosen,
        columns=columns,
        problems=tuple(log.problems),
        advice=tuple(_advice(columns, observed, few_keys)),
    )


def _columns(log: Log, observed: Observed, rule: Rule, *, judged: bool) -> list[ColumnDrift]:
    reference, contract = log.bundle.reference, log.bundle.contract
    features, outputs = reference["features"]["columns"], reference["score"]["columns"]
    pairs = {f"feature.{name}": (column, observed.features["columns"][name]) for name, column in features.items()}
    pairs |= {name: (column, observed.outputs["columns"][name]) for name, column in outputs.items()}
    compared = {
        (name, measure): _compare(
            *pairs[name], trained_effects(reference, name, observed.effects[name]), observed.effects[name], measure
        )
        for name in pairs
        for measure in (("values",) if name in outputs else ("values", "missing"))
    }
    adjusted = dict(zip(compared, holm([one.p_value for one in compared.values()]), strict=True))
    findings: dict[str, list[DriftFinding]] = {name: [] for name in pairs}
    for (name, measure), one in compared.items():
        verdict = judge(one, adjusted[name, measure], len(compared), rule) if judged else Verdict.TOO_FEW
        findings[name].append(DriftFinding(measure, one, adjusted[name, measure], verdict))
    sources = {f"feature.{f.name}": f.view for f in contract.features}
    return [
        ColumnDrift(
            name=name.removeprefix("feature.") if name in sources else name.replace("output.", "output ", 1),
            source=sources.get(name, ""),
            findings=tuple(found),
            reference=pairs[name][0],
            serving=pairs[name][1],
            change=_change(*pairs[name]),
            statuses=_shares(observed.statuses[name.removeprefix("feature.")]) if name in sources else {},
        )
        for name, found in findings.items()
    ]


def _compare(
    reference: Mapping[str, Any],
    serving: Mapping[str, Any],
    trained: ColumnEffects,
    served: ColumnEffects,
    measure: str,
) -> Comparison:
    left, right = histograms.cells(reference), histograms.cells(serving)
    if measure == "values":
        return compare(left[:-1], right[:-1], trained.values, served.values)
    missing = [left[:-1].sum(), left[-1]], [right[:-1].sum(), right[-1]]
    return compare(*missing, trained.missing, served.missing)


def _few_keys(reference: Mapping[str, Any], observed: Observed) -> list[str]:
    """Why nothing is judged: a sentence for each key of few values in serving and many in training.

    Rows of a handful of keys do not represent the population.
    """
    trained = reference.get("keys", {})
    return [
        f"Only {count} values of {name} were served, of {trained.get(name, 'many')} in training: rows of fewer than {LEAST_CLUSTERS} need not "
        "look like all others, so no column is judged. To judge more of them, widen the window with --from and --to."
        for name, count in observed.keys.items()
        if count < LEAST_CLUSTERS <= trained.get(name, LEAST_CLUSTERS) and observed.rows
    ]


def _change(reference: Mapping[str, Any], serving: Mapping[str, Any]) -> str:
    left, right = histograms.cells(reference), histograms.cells(serving)
    if not left.sum() or not right.sum():
        return "-"
    before, after = left / left.sum(), right / right.sum()
    cell = int(np.argmax(np.abs(after - before)))
    return f"{histograms.labels(reference)[cell]}: {before[cell]:.1%} -> {after[cell]:.1%}"


def _shares(statuses: Any) -> dict[str, float]:
    if statuses is None or not statuses.sum():
        return {}
    return {name: float(count / statuses.sum()) for name, count in zip(STATUSES, statuses, strict=True)}


def _order(column: ColumnDrift) -> tuple[int, float, str]:
    return SEVERITY[column.verdict], -column.worst.comparison.effect, column.name


def _advice(columns: tuple[ColumnDrift, ...], observed: Observed, few_keys: list[str]) -> list[str]:
    """What to do next, a sentence each."""
    drifted = [c for c in columns if c.verdict == Verdict.DRIFT]
    missing = [c for c in drifted if c.worst.measure == "missing" and c.source]
    values = [c for c in drifted if c.worst.measure == "values" and c.source]
    lines = []
    if stale := [c for c in columns if c.statuses.get("stale", 0.0) > 0.01]:
        lines.append(f"Stale beyond their ttl: {_list(stale)}. Check that these views are still fed: {_views(stale)}.")
    if missing:
        lines.append(
            f"Missing more or less often than in training: {_list(missing)}. Check what feeds {_views(missing)}."
        )
    if values:
        lines.append(
            f"Different values: {_list(values)}. Find the cause upstream of {_views(values)} first (units, a new release, new users); "
            "if it is real, retrain on recent data with `asof train`."
        )
    if any(not c.source for c in drifted):
        lines.append("The scores moved: check the decision threshold, and `asof performance` once labels are known.")
    if (
        drifted
        and observed.first is not None
        and observed.last is not None
        and observed.last - observed.first < SHORT - DAY
    ):
        seen = format_span(max(1, round((observed.last - observed.first) / HOUR)) * HOUR)
        lines.append(
            f"The window covers about {seen}, not a whole week: weekday and hour features differ by the calendar alone."
        )
    lines += few_keys
    if not few_keys and (few := [c for c in columns if c.verdict == Verdict.TOO_FEW]):
        lines.append(
            f"Too few independent rows for {counted(len(few), 'column')}: widen the window with --from and --to."
        )
    return lines or ["Nothing to do."]


def _list(columns: list[ColumnDrift]) -> str:
    names = [c.name for c in columns]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _views(columns: list[ColumnDrift]) -> str:
    return ", ".join(sorted({c.source for c in columns}))


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _missing(column: ColumnDrift) -> str:
    left, right = histograms.cells(column.reference), histograms.cells(column.serving)
    return f"{left[-1] / max(left.sum(), 1):.1%} -> {right[-1] / max(right.sum(), 1):.1%}"


def _moment(micros: int | None) -> str | None:
    return None if micros is None else format_moment(micros)


def _column_data(column: ColumnDrift) -> dict[str, Any]:
    return {
        "name": column.name,
        "view": column.source or None,
        "verdict": str(column.verdict),
        "change": column.change,
        "statuses": dict(column.statuses),
        "findings": [
            {"measure": f.measure, **asdict(f.comparison), "adjusted_p_value": f.adjusted, "verdict": str(f.verdict)}
            for f in column.findings
        ],
        "labels": histograms.labels(column.reference),
        "reference": histograms.cells(column.reference).tolist(),
        "serving": histograms.cells(column.serving).tolist(),
    }
