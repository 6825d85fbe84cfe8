"""The split: spans from a declaration and the data, and no label before its time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.errors import UsageError
from asof.instants import DAY, parse_moment
from asof.task import BINARY
from asof.training.model import Split
from asof.training.split import GivenSpans, Spans, counts, divide, resolve
from tests.training.machines import MODEL

WEEKS = replace(MODEL, label_delay="7 days", split=Split(train="7 days", test="7 days"))
FIRST, LAST = parse_moment("2018-04-01T00:00:31"), parse_moment("2018-09-30T23:59:57")
HOUR = DAY // 24


def span(*days: str) -> Spans:
    """Spans from four dates."""
    return Spans(*(parse_moment(day) for day in days))


def test_a_test_start_fixes_all_spans():
    """With the start of the test span given, delay and training span lie before it and the test span after it."""
    expected = span("2018-07-25", "2018-08-01", "2018-08-08", "2018-08-15")

    assert resolve(WEEKS, FIRST, LAST, GivenSpans(test_start=parse_moment("2018-08-08"))) == expected
    assert resolve(WEEKS, FIRST, LAST, GivenSpans(train_start=parse_moment("2018-07-25"))) == expected
    assert resolve(WEEKS, FIRST, LAST, GivenSpans(test_end=parse_moment("2018-08-15"))) == expected


def test_without_a_date_the_test_span_ends_with_the_data():
    """The test span ends at the end of the last day that has a labelled row."""
    assert resolve(WEEKS, FIRST, LAST) == span("2018-09-10", "2018-09-17", "2018-09-24", "2018-10-01")


def test_both_starts_choose_the_length_of_the_training_span():
    """With both starts given, the training span reaches from its start to the delay before the test span."""
    chosen = resolve(
        WEEKS,
        FIRST,
        LAST,
        GivenSpans(parse_moment("2018-07-01"), parse_moment("2018-08-08"), parse_moment("2018-08-10")),
    )

    assert chosen == span("2018-07-01", "2018-08-01", "2018-08-08", "2018-08-10")


def test_everything_is_optional():
    """A model without split, delay and exclusion tests on the last fifth of the days and learns from all before."""
    plain = replace(MODEL, label_delay="0 days", split=Split())

    assert resolve(plain, FIRST, parse_moment("2018-04-20T12:00")) == span(
        "2018-04-01", "2018-04-17", "2018-04-17", "2018-04-21"
    )


@pytest.mark.parametrize(
    ("given_spans", "problem"),
    [
        (GivenSpans(test_start=parse_moment("2018-04-05")), "do not fit"),
        (GivenSpans(test_start=parse_moment("2018-11-05")), "do not fit"),
        (GivenSpans(test_start=parse_moment("2018-08-08"), test_end=parse_moment("2018-08-08")), "test span is empty"),
        (
            GivenSpans(train_start=parse_moment("2018-08-05"), test_start=parse_moment("2018-08-08")),
            "training span is empty",
        ),
    ],
)
def test_spans_outside_the_data_are_refused(given_spans, problem):
    """Spans that are empty or lie outside the labelled rows are refused in one line that says where the rows are."""
    with pytest.raises(UsageError, match=problem) as caught:
        resolve(WEEKS, FIRST, LAST, given_spans)

    assert "2018-04-01" in str(caught.value)
    assert "\n" not in str(caught.value)


EVENT = st.tuples(st.integers(0, 9 * 24), st.integers(0, 1), st.integers(0, 6 * 24), st.integers(0, 3))
SPANS = st.lists(st.integers(0, 8), min_size=4, max_size=4).map(sorted)


@given(st.lists(EVENT, min_size=1, max_size=60), SPANS)
def test_no_label_is_used_before_its_time(events, bounds):
    """Every row that teaches has a label usable at the start of the test span, and who is left out was known before the day began."""
    hours, label, delay, entity = (np.array(column, np.int64) for column in zip(*events, strict=True))
    time, usable = hours * HOUR, (hours + delay) * HOUR
    spans = Spans(*(b * DAY for b in bounds))
    parts = divide(spans, time, label.astype(float), usable, entity)
    for i in range(len(events)):
        in_test = spans.test_start <= time[i] < spans.test_end
        known = any(
            label[j] and entity[j] == entity[i] and time[j] >= spans.train_start and usable[j] < time[i] // DAY * DAY
            for j in range(len(events))
        )

        assert parts.train[i] == (spans.train_start <= time[i] < spans.train_end and usable[i] <= spans.test_start)
        assert parts.test[i] == (in_test and not known)
        assert parts.gap[i] == (spans.train_end <= time[i] < spans.test_start)


def test_counts_say_what_was_left_out():
    """The counts name rows and positives of each part, late labels and rows of known entities."""
    spans = Spans(0, 2 * DAY, 3 * DAY, 5 * DAY)
    time = np.array([0, DAY, DAY, 2 * DAY, 3 * DAY, 4 * DAY])
    label = np.array([1.0, 0, 0, 1, 1, 1])
    usable = np.array([DAY, 2 * DAY, 9 * DAY, 3 * DAY, 9 * DAY, 9 * DAY])
    parts = divide(spans, time, label, usable, np.array([0, 1, 1, 2, 0, 1]))
    found = counts(spans, parts, label, BINARY)

    assert (found["train_rows"], found["train_positives"], found["train_late_labels"]) == (2, 1, 1)
    assert (found["test_rows"], found["test_positives"], found["test_left_out"]) == (1, 1, 1)
    assert (found["gap_rows"], found["delay"]) == (1, "1 day")
