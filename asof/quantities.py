"""Quantities as people read them: a number with its noun, and a span of time."""

from __future__ import annotations

from asof.instants import DAY, SECOND, format_span

MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND


def counted(count: int, noun: str, plural: str = "") -> str:
    """The number and its noun, such as ``1 row`` or ``1,234 rows``; ``plural`` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def about_span(micros: int) -> str:
    """The span for reading: in whole hours from a day on, minutes from an hour on, seconds from a second on."""
    unit = next((unit for least, unit in ((DAY, HOUR), (HOUR, MINUTE), (SECOND, SECOND)) if micros >= least), 1)
    short = micros // unit * unit
    return format_span(short) if short == micros else f"about {format_span(short)}"
