"""Numbers and spans in the words of people."""

from __future__ import annotations

import pytest

from asof.instants import DAY, SECOND
from asof.quantities import about_span, counted


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (1234, ("row",), "1,234 rows"),
        (1, ("mismatch", "mismatches"), "1 mismatch"),
        (2, ("mismatch", "mismatches"), "2 mismatches"),
    ],
)
def test_a_noun_agrees_with_its_number(count: int, words: tuple[str, ...], expected: str) -> None:
    """One is singular, everything else plural; thousands are grouped."""
    assert counted(count, *words) == expected


@pytest.mark.parametrize(
    ("micros", "expected"),
    [
        (1, "1 microsecond"),
        (90 * SECOND, "90 seconds"),
        (1_680_000_001, "about 28 minutes"),
        (7 * DAY, "7 days"),
        (7 * DAY + 1, "about 7 days"),
        (2 * DAY + 1_800 * SECOND, "about 2 days"),
    ],
)
def test_a_span_is_told_in_units_that_people_read(micros: int, expected: str) -> None:
    """A span of minutes is not told in microseconds."""
    assert about_span(micros) == expected
