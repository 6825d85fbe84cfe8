"""Moments and spans are whole microseconds, exactly."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof.errors import UsageError
from asof.instants import format_moment, format_span, from_micros, parse_moment, parse_span, span_micros, to_micros

MOMENTS = st.datetimes(min_value=datetime(1678, 1, 1), max_value=datetime(2261, 1, 1))  # noqa: DTZ001 - the zone is added


@given(MOMENTS)
def test_micros_round_trip(naive: datetime) -> None:
    """A moment survives the way to microseconds and back, and a naive one means UTC."""
    aware = naive.replace(tzinfo=UTC)
    assert from_micros(to_micros(aware)) == aware
    assert to_micros(naive) == to_micros(aware)


@given(MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_offsets_do_not_move_a_moment(naive: datetime, minutes: int) -> None:
    """The same instant written in another zone is the same number."""
    aware = naive.replace(tzinfo=UTC)
    assert to_micros(aware.astimezone(timezone(timedelta(minutes=minutes)))) == to_micros(aware)


@given(MOMENTS)
def test_formatted_moments_are_read_back(naive: datetime) -> None:
    """What is printed can be typed in."""
    micros = to_micros(naive)
    assert parse_moment(format_moment(micros)) == micros


@given(st.integers(1, 10**15))
def test_formatted_spans_are_read_back(micros: int) -> None:
    """A printed span is the same span when read."""
    assert parse_span(format_span(micros)) == micros


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=40_000)))
def test_span_counts_microseconds(span: timedelta) -> None:
    """A span is its exact number of microseconds."""
    assert timedelta(microseconds=span_micros(span)) == span


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("7 days", 604_800_000_000),
        ("1 microsecond", 1),
        ("90s", 90_000_000),
        ("0.5h", 1_800_000_000),
        ("2us", 2),
        ("10 min", 600_000_000),
    ],
)
def test_spans_of_every_spelling(text: str, micros: int) -> None:
    """Units may be long or short, singular or plural."""
    assert parse_span(text) == micros


@pytest.mark.parametrize("text", ["", "7", "days", "7 parsecs", "-1 day", "1 day 2 hours"])
def test_a_wrong_span_says_what_was_expected(text: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(UsageError, match="expected a number and a unit"):
        parse_span(text)


@pytest.mark.parametrize("text", ["", "yesterday", "2018-13-01", "08/08/2018"])
def test_a_wrong_moment_says_what_was_expected(text: str) -> None:
    """Only ISO 8601 is read as a time."""
    with pytest.raises(UsageError, match="ISO 8601"):
        parse_moment(text)
