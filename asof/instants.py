"""Converts moments and spans of time to and from whole microseconds, UTC.

A moment is an ``int`` of microseconds since 1970-01-01T00:00:00Z, a span is an ``int`` of microseconds. Integers compare and
subtract exactly; ``datetime`` is used only at the border to people and other libraries. A naive time means UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from asof.errors import UsageError

MICROSECOND = 1
SECOND = 1_000_000
DAY = 86_400 * SECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {
    "microsecond": 1, "us": 1, "millisecond": 1_000, "ms": 1_000, "second": SECOND, "s": SECOND, "minute": 60 * SECOND,
    "min": 60 * SECOND, "hour": 3_600 * SECOND, "h": 3_600 * SECOND, "day": DAY, "d": DAY, "week": 7 * DAY, "w": 7 * DAY,
}  # fmt: skip
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+?)s?\s*", re.IGNORECASE)


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch; a naive ``moment`` means UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = aware - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds


def from_micros(micros: int) -> datetime:
    """The timezone-aware UTC ``datetime`` of ``micros``."""
    return _EPOCH + timedelta(microseconds=int(micros))


def span_micros(span: timedelta) -> int:
    """Microseconds in ``span``, exactly."""
    return (span.days * 86_400 + span.seconds) * SECOND + span.microseconds


def parse_moment(text: str) -> int:
    """Microseconds since the epoch of an ISO 8601 date or time; without an offset it means UTC.

    Raises:
        UsageError: ``text`` is not ISO 8601.
    """
    try:
        return to_micros(datetime.fromisoformat(text.strip()))
    except ValueError:
        raise UsageError(
            f"got the time {text!r}, expected ISO 8601 such as 2018-08-08 or 2018-08-08T12:00:00Z"
        ) from None


def parse_span(text: str) -> int:
    """Microseconds in a span such as ``7 days``, ``1 microsecond``, ``90s`` or ``0.5h``.

    Raises:
        UsageError: ``text`` is not a number and a unit.
    """
    match = _SPAN.fullmatch(text)
    unit = _UNITS.get(match.group(2).lower()) or _UNITS.get(match.group(2).lower() + "s") if match else None
    if match is None or unit is None:
        raise UsageError(
            f"got the span {text!r}, expected a number and a unit such as '7 days', '12h' or '1 microsecond'"
        )
    return round(float(match.group(1)) * unit)


def format_moment(micros: int) -> str:
    """ISO 8601 with a trailing Z; microseconds only if they are not zero."""
    return from_micros(micros).isoformat().replace("+00:00", "Z")


def format_span(micros: int) -> str:
    """The span in the largest unit that divides it, such as ``7 days``."""
    for name in ("day", "hour", "minute", "second", "millisecond"):
        if micros and micros % _UNITS[name] == 0:
            count = micros // _UNITS[name]
            return f"{count} {name}{'s' if count != 1 else ''}"
    return f"{micros} microsecond{'s' if micros != 1 else ''}"
