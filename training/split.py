"""Splits labelled rows by time into training, gap and test rows.

The moment of training is the start of the test span: the model cannot learn what became known later. So a row of the training span
is used only if its label was usable by then; with a delay between the spans this is nearly every row.

Everything is in microseconds, UTC; spans are half-open. Spans start and end at midnight unless the command line says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asof.errors import UsageError
from asof.instants import DAY, format_moment, format_span, parse_span
from asof.quantities import about_span
from asof.task import Binary, Multiclass, Task
from asof.training.model import Model

Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

DEFAULT_SHARE = 5
"""Without a declared test span, one day in this many (rounded up) is for testing."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The four moments of a split: training is [train_start, train_end), testing is [test_start, test_end)."""

    train_start: int
    train_end: int
    test_start: int
    test_end: int

    def to_dict(self) -> dict[str, str]:
        """The moments as text."""
        return {name: format_moment(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class GivenSpans:
    """Bounds of spans that the command line fixes; None where the declaration and the data decide."""

    train_start: int | None = None
    test_start: int | None = None
    test_end: int | None = None


def resolve(model: Model, first: int, last: int, given: GivenSpans | None = None) -> Spans:
    """The spans of ``model`` for labelled rows between ``first`` and ``last`` (both included).

    With a start of the test span given, everything is counted from there. With only the start of the training span given,
    everything is counted from that, if its length is declared. Otherwise the test span ends with the last day that has a row.

    Raises:
        UsageError: A span would be empty or lie outside the rows.
    """
    fixed = given or GivenSpans()
    delay = parse_span(model.split.delay or model.label_delay)
    test = _test_length(model, first, last)
    train = parse_span(model.split.train) if model.split.train else None
    test_start = fixed.test_start
    if test_start is None and fixed.train_start is not None and train is not None:
        test_start = fixed.train_start + train + delay
    if test_start is None:
        test_start = (fixed.test_end or _day(last) + DAY) - test
    train_end = test_start - delay
    earliest = _day(first) if train is None else train_end - train
    start = earliest if fixed.train_start is None else fixed.train_start
    spans = Spans(start, train_end, test_start, fixed.test_end or test_start + test)
    _check(spans, first, last)
    return spans


def _test_length(model: Model, first: int, last: int) -> int:
    if model.split.test:
        return parse_span(model.split.test)
    days = (_day(last) - _day(first)) // DAY + 1
    return -(-days // DEFAULT_SHARE) * DAY


def _day(moment: int) -> int:
    return moment // DAY * DAY


def _check(spans: Spans, first: int, last: int) -> None:
    held = f"labelled rows lie between {format_moment(first)} and {format_moment(last)}"
    if spans.train_start >= spans.train_end or spans.test_start >= spans.test_end:
        which = "training" if spans.train_start >= spans.train_end else "test"
        raise UsageError(
            f"the {which} span is empty ({_text(spans)}); {held}; declare shorter spans or ingest more rows"
        )
    if spans.train_start < _day(first) or spans.test_start > last:
        raise UsageError(f"the spans ({_text(spans)}) do not fit: {held}; choose other spans or ingest more rows")


def _text(spans: Spans) -> str:
    moments = spans.to_dict()
    return (
        f"train {moments['train_start']} to {moments['train_end']}, test {moments['test_start']} to {moments['test_end']}, "
        f"{about_span(spans.test_start - spans.train_end)} between"
    )


@dataclass(frozen=True, slots=True)
class SplitRows:
    """The part of the split that each of n labelled rows is in.

    Attributes:
        train: bool[n], in the training span with a label usable at the start of the test span.
        gap: bool[n], lies between the spans: scored for reference, its label unused.
        test: bool[n], in the test span.
        late: Rows of the training span whose label came too late.
        known: Rows of the test span left out because their entity was already known to be positive.
    """

    train: Mask
    gap: Mask
    test: Mask
    late: int
    known: int


def divide(
    spans: Spans,
    time: Times,
    label: npt.NDArray[np.float64],
    usable: Times,
    entity: npt.NDArray[np.int64] | None = None,
) -> SplitRows:
    """The part of the split that each row is in.

    Args:
        spans: The spans.
        time: int64[n], event times.
        label: float64[n].
        usable: int64[n], moments from which labels may be used.
        entity: int64[n], dense codes of the entities of which known positives are left out; None to leave out no row.
    """
    training = (time >= spans.train_start) & (time < spans.train_end)
    train = training & (usable <= spans.test_start)
    gap = (time >= spans.train_end) & (time < spans.test_start)
    test = (time >= spans.test_start) & (time < spans.test_end)
    known = np.zeros(len(time), bool)
    if entity is not None:
        known = test & (_known_from(entity, (label == 1) & (time >= spans.train_start), usable) < time // DAY * DAY)
    return SplitRows(train, gap, test & ~known, int((training & ~train).sum()), int(known.sum()))


def _known_from(entity: npt.NDArray[np.int64], positive: Mask, usable: Times) -> Times:
    """int64[n]: when the first positive label of each row's entity became usable; the end of time where there is none."""
    first = np.full(int(entity.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, entity[positive], usable[positive])
    return np.asarray(first[entity])


def counts(spans: Spans, parts: SplitRows, label: npt.NDArray[np.float64], task: Task) -> Mapping[str, Any]:
    """The split as JSON-ready data, with the number of rows of each part, and of its positives, or rows by class, or mean label."""
    sizes: dict[str, Any] = {}
    for name, mask in (("train", parts.train), ("gap", parts.gap), ("test", parts.test)):
        sizes[f"{name}_rows"] = int(mask.sum())
        if isinstance(task, Binary):
            sizes[f"{name}_positives"] = int(label[mask].sum())
        elif isinstance(task, Multiclass):
            found = np.bincount(label[mask].astype(np.int64), minlength=len(task.classes))
            sizes[f"{name}_classes"] = dict(zip(task.classes, found.tolist(), strict=True))
        else:
            sizes[f"{name}_mean_label"] = float(label[mask].mean()) if mask.any() else None
    delay = format_span(spans.test_start - spans.train_end)
    return {**spans.to_dict(), "delay": delay, **sizes, "train_late_labels": parts.late, "test_left_out": parts.known}
