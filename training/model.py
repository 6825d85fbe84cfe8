"""Model declarations: what a model predicts, from which features, and on which spans of time it is trained and tested.

A declaration is an instance of :class:`Model` at the top level of a Python file in ``models/`` of the feature repo. This module
computes nothing; a wrong declaration is refused at once, in one line.

Only the name, the service and the rows are required. Without a split the last fifth of the time is the test span, without
a delay labels are known with their events, without thresholds every model passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from asof.errors import SettingsError, UsageError
from asof.instants import parse_span
from asof.statistics.metrics import METRICS, SMALLER_IS_BETTER, default_metrics
from asof.task import BINARY, Task

Rule = Literal["f1", "share", "fixed"]

PRECISION_AT = "precision_at"
KINDS = (*dict.fromkeys(name for names in METRICS.values() for name in names), PRECISION_AT)


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """The tables and columns of the labelled rows.

    Attributes:
        table: Source whose rows are scored; it has the keys and the request fields of the feature service as columns.
        event_time: Its column with the moment at which a row is scored.
        id: Its column that identifies a row.
        keys: Its entity key columns.
        label: Column with the label: 0 or 1, a class, or a number, as the model's task has it.
        label_table: Source that has the label, one row for each ``id``; by default ``table``.
        label_time: Column of the label's table with the moment from which the label may be used; by default the moment
            at which that table's row is known, and for a label in ``table`` itself the event time plus the model's delay.
    """

    table: str
    event_time: str
    id: str
    keys: tuple[str, ...]
    label: str
    label_table: str | None = None
    label_time: str | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """The spans of training and testing: a training span, a gap in which labels arrive, a test span.

    Spans are whole days of UTC and end where the labelled rows end, unless the command line says when one of them starts.

    Attributes:
        train: Length of the training span, such as ``7 days``; by default everything before.
        delay: Length of the gap; by default the model's label delay.
        test: Length of the test span; by default a fifth of the whole.
        leave_out_known: Key column: entities with a positive label, of an event since the training span began, that was known before
            a test day began are left out of that day.
    """

    train: str | None = None
    delay: str | None = None
    test: str | None = None
    leave_out_known: str | None = None


@dataclass(frozen=True)
class Metric:
    """A metric of what the model gives.

    Attributes:
        kind: A metric of the task, see :data:`asof.statistics.metrics.METRICS`, or for a binary one ``precision_at``: each day,
            entities are ranked by their highest score of the day, without those found on an earlier day; the share of positives
            among the first ``k``; mean over days.
        name: Its name in reports; by default the kind.
        k: For ``precision_at``: how many entities a day.
        key: For ``precision_at``: key column of the entities.
    """

    kind: str
    name: str = ""
    k: int = 0
    key: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"got the metric {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.kind == PRECISION_AT and (self.k < 1 or not self.key):
            raise SettingsError("the metric precision_at needs k (entities a day, at least 1) and key (their column)")
        object.__setattr__(self, "name", self.name or (f"precision@{self.k}" if self.k else self.kind))

    @property
    def smaller_is_better(self) -> bool:
        """Whether a threshold is an upper limit."""
        return self.kind in SMALLER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the booster is fitted.

    Attributes:
        parameters: LightGBM parameters; the parameters that make a run repeatable (seed, determinism, threads) have defaults.
        rounds: Maximum number of trees.
        patience: Rounds without improvement on the held-out part after which fitting stops.
        hold_out: Most recent part of the training span, such as ``2 days``, that decides when to stop; by default a fifth of it.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1_000
    patience: int = 50
    hold_out: str | None = None


@dataclass(frozen=True)
class Decision:
    """How the threshold of positive decisions is found.

    Attributes:
        rule: ``f1`` (the best F1 on the held-out part of the training span), ``share`` (the share of rows with positive decisions) or
            ``fixed``.
        value: The share of rows, or the threshold itself.
    """

    rule: Rule = "f1"
    value: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise SettingsError(f"got the decision rule {self.rule!r}, expected one of {', '.join(get_args(Rule))}")
        if not 0 < self.value < 1:
            raise SettingsError(f"got the decision value {self.value!r}, expected a number between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """Limits beyond which a result is suspected to be a leak.

    Attributes:
        auc: Test AUC of the model from which a leak is suspected.
        feature_auc: AUC of a single feature, in either direction, from which a leak is suspected.
        recomputed: Number of rows recomputed with knowledge time on.
    """

    auc: float = 0.99
    feature_auc: float = 0.99
    recomputed: int = 2_000


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model.

    Attributes:
        name: Its name on the command line and of its bundles.
        service: Feature service that its features come from.
        rows: Where its labelled rows come from.
        label_delay: How long after an event its label becomes known, at the earliest.
        split: The spans of training and testing.
        task: What is predicted, see :mod:`asof.task`.
        categories: Features of the service whose values are categories: texts, whole numbers or booleans.
        fit: How the booster is fitted.
        metrics: What is reported; by default every metric of the task's kind.
        thresholds: Metric name -> what it must reach: at least, for a loss at most.
        decision: How the threshold of positive decisions is found; for a binary task only.
        suspicion: Limits beyond which a leak is suspected.
        unit: Key column whose rows are drawn together when intervals are estimated; by default rows are drawn one by one.
    """

    name: str
    service: str
    rows: LabelledRows
    label_delay: str = "0 days"
    split: Split = Split()
    task: Task = BINARY
    categories: tuple[str, ...] = ()
    fit: Fit = Fit()
    metrics: tuple[Metric, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    decision: Decision | None = None
    suspicion: Suspicion = Suspicion()
    unit: str | None = None

    def __post_init__(self) -> None:
        try:
            self._check_task()
            self._check()
        except UsageError as error:
            raise SettingsError(f"model {self.name!r}: {error}") from None

    def _check_task(self) -> None:
        """Fill in what the task decides, and refuse what does not fit it."""
        if not isinstance(self.task, Task):
            raise SettingsError(
                f"got the task {self.task!r}, expected Binary(), Multiclass(), Regression() or Quantiles() of asof.task"
            )
        kind, known = self.task.kind, METRICS[self.task.kind]
        binary = kind == "binary"
        object.__setattr__(self, "metrics", self.metrics or tuple(map(Metric, default_metrics(self.task))))
        if foreign := [m.kind for m in self.metrics if m.kind not in known and not (binary and m.kind == PRECISION_AT)]:
            raise SettingsError(f"got the metric {foreign[0]!r}, expected one of a {kind} task: {', '.join(known)}")
        if not binary and (self.decision or self.split.leave_out_known):
            what = "a decision" if self.decision else "leave_out_known"
            raise SettingsError(f"got {what} and a {kind} task, expected it of a binary task only: leave it out")
        if binary:
            object.__setattr__(self, "decision", self.decision or Decision())

    def _check(self) -> None:
        if not self.name.isidentifier() or not self.name.islower():
            raise SettingsError("the name must be a lower-case identifier: it names a folder and a command's argument")
        for span in (self.label_delay, self.split.train, self.split.delay, self.split.test, self.fit.hold_out):
            parse_span(span or "0 days")
        if self.fit.rounds < 1 or self.fit.patience < 1:
            raise SettingsError(
                f"got {self.fit.rounds} rounds and a patience of {self.fit.patience}, expected 1 or more"
            )
        self._check_names()

    def _check_names(self) -> None:
        names = [m.name for m in self.metrics]
        if unknown := sorted(set(self.thresholds) - set(names)):
            raise SettingsError(
                f"a threshold for {unknown[0]!r} is declared, but the metrics are {', '.join(names) or 'none'}"
            )
        if len(set(names)) < len(names):
            raise SettingsError(f"two metrics share a name: {', '.join(sorted(names))}; give one of them another name")
        for key in [m.key for m in self.metrics if m.key and m.key != self.unit]:
            raise SettingsError(
                f"got unit={self.unit!r}, expected unit={key!r}: a metric ranks these entities, so they are drawn together"
            )
        for named in (self.unit, self.split.leave_out_known):
            if named and named not in self.rows.keys:
                held = ", ".join(self.rows.keys) or "none"
                raise SettingsError(f"{named!r} is used as a key, but the rows' keys are {held}")

    @property
    def delay(self) -> int:
        """Microseconds after an event until its label is known, at the earliest."""
        return parse_span(self.label_delay)
