"""Checks the JSON rows of a request against the contract and turns them into columns.

Checks are strict where a lenient one would hide a mistake (a misspelled field, a number in quotes, NaN). An error names
every wrong row and field and says what was expected, never what was given. ``null`` means a missing value; a field that is left
out is an error.
"""

from __future__ import annotations

import base64
import difflib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.contract import Contract, Field
from asof.errors import RequestError
from asof.instants import SECOND, to_micros
from asof.quantities import counted
from asof.serving.problems import MOST_PROBLEMS, ProblemError

FUTURE = 3_600 * SECOND
"""How far a row's moment may lie ahead of the server's clock, for clients whose clock is ahead."""

LONGEST_TEXT = 1_024
"""Characters in a text value."""

_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
_LATEST = datetime(2262, 1, 1, tzinfo=UTC)


class _InvalidValueError(Exception):
    """A value does not fit; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class RequestRows:
    """The n rows of a request as columns.

    Attributes:
        keys: Key -> n values.
        request: Request field -> n values; moments as aware ``datetime``.
        at: ``int64[n]`` microseconds, the moment that each row is scored for.
    """

    keys: dict[str, list[Any]]
    request: dict[str, list[Any]]
    at: NDArray[np.int64]


@dataclass(frozen=True)
class RowParser:
    """Checks the rows of requests under one contract.

    Args:
        contract: The contract.
        event_time: The request field that holds a row's moment; None if rows have none and are scored for the
            moment of the request, or for now.
        max_rows: Most rows in a request.
        scored_at: Column of the training rows with their moment, if requests do not carry it: the error for it names ``at``.
        clock: Returns the current time in microseconds.
    """

    contract: Contract
    event_time: str | None
    max_rows: int
    scored_at: str | None = None
    clock: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000)

    def parse(self, rows: Any, at: Any = None) -> RequestRows:
        """The rows as columns.

        Args:
            rows: The value of the request's field ``rows``.
            at: The value of its field ``at``, used if rows carry no moment.

        Raises:
            ProblemError: ``rows`` is not a list of rows, is too long, or holds a wrong value; names each row and field.
        """
        self._check_shape(rows)
        problems: list[RequestError] = []
        keys = {f.name: self._column(f, rows, problems) for f in self.contract.keys}
        request = {f.name: self._column(f, rows, problems) for f in self.contract.request_fields}
        self._check_names(rows, {*keys, *request}, problems)
        moments = self._moments(request, problems) if self.event_time else self._moment(at, len(rows), problems)
        if problems:
            problems.sort(key=lambda p: (p.row or 0, p.field))
            raise ProblemError("invalid_rows", str(problems[0]), problems)
        return RequestRows(keys, request, moments)

    def _check_shape(self, rows: Any) -> None:
        if not isinstance(rows, list) or not rows:
            raise _invalid_request("rows", "expected a list of at least one row")
        if len(rows) > self.max_rows:
            message = (
                f"has {counted(len(rows), 'row')}, expected at most {self.max_rows}; send them in several requests"
            )
            raise ProblemError("too_large", f"field 'rows': {message}", [RequestError(None, "rows", message)])
        for position, row in enumerate(rows):
            if not isinstance(row, dict):
                error = RequestError(position, "rows", "expected an object with the row's fields")
                raise ProblemError("invalid_rows", str(error), [error])

    def _column(self, declared: Field, rows: Sequence[Mapping[str, Any]], problems: list[RequestError]) -> list[Any]:
        read, name, values = reader(declared.dtype), declared.name, []
        for position, row in enumerate(rows):
            value = row.get(name, _ABSENT)
            try:
                values.append(None if value is None else read(value))
            except _InvalidValueError as invalid:
                values.append(None)
                if len(problems) <= MOST_PROBLEMS:
                    text = f"is missing, expected {invalid}" if value is _ABSENT else f"expected {invalid}"
                    problems.append(RequestError(position, name, text))
        return values

    def _check_names(self, rows: Sequence[Mapping[str, Any]], known: set[str], problems: list[RequestError]) -> None:
        for position, row in enumerate(rows):
            if len(row) > len(known) or not known.issuperset(row):
                for name in (n for n in row if n not in known):
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    if name == self.scored_at:
                        hint = (
                            "; the moment to score for is the field 'at' beside 'rows', one for all rows of a request"
                        )
                    shown = name if len(name) <= 64 else name[:64] + "..."
                    problems.append(RequestError(position, shown, f"is not a field of this model{hint}"))
                    if len(problems) > MOST_PROBLEMS:
                        return

    def _moments(self, request: Mapping[str, list[Any]], problems: list[RequestError]) -> NDArray[np.int64]:
        """The moment in each row."""
        name, now = self.event_time or "", self.clock()
        wrong = {p.row for p in problems if p.field == name}
        at = np.array([now if moment is None else to_micros(moment) for moment in request[name]], dtype=np.int64)
        for position, moment in enumerate(request[name]):
            if moment is None and position not in wrong:
                problems.append(RequestError(position, name, f"is null, expected {_MOMENT}"))
        ahead = np.flatnonzero(at > now + FUTURE)[:MOST_PROBLEMS].tolist()
        problems += [RequestError(p, name, _AHEAD) for p in ahead]
        return at

    def _moment(self, given: Any, rows: int, problems: list[RequestError]) -> NDArray[np.int64]:
        """The moment of the request, repeated for every row."""
        now = at = self.clock()
        if given is not None:
            try:
                at = to_micros(_moment(given))
            except _InvalidValueError as invalid:
                problems.append(RequestError(None, "at", f"expected {invalid}"))
        if at > now + FUTURE:
            problems.append(RequestError(None, "at", _AHEAD))
        return np.full(rows, at, dtype=np.int64)


def reader(dtype: str) -> Callable[[Any], Any]:
    """The function that checks one JSON value of a type; values of unknown types are not checked."""
    if dtype.startswith("array(") and dtype.endswith(")"):
        inner = reader(dtype[6:-1])
        return lambda value: _array(value, inner)
    return _READERS.get(dtype, _anything)


def expected(dtype: str) -> str:
    """What a field of this type must hold, in words; used in error messages and in the OpenAPI document."""
    try:
        reader(dtype)(_ABSENT)
    except _InvalidValueError as invalid:
        return str(invalid)
    return "any value"


def encodable(text: str) -> bool:
    """Whether ``text`` can be encoded as UTF-8; JSON can contain lone surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _invalid_request(name: str, problem: str) -> ProblemError:
    error = RequestError(None, name, problem)
    return ProblemError("invalid_rows", str(error), [error])


_ABSENT = object()
_AHEAD = "lies in the future by the server's clock"
_MOMENT = "an ISO 8601 time such as 2018-08-08T12:00:00Z (without offset: UTC) between 1900 and 2261"


def _integer(value: Any, bits: int) -> int:
    whole = int(value) if isinstance(value, float) and abs(value) <= 2**53 and value.is_integer() else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        raise _InvalidValueError(f"a whole number of {bits} bits")
    return whole


def _int32(value: Any) -> int:
    return _integer(value, 32)


def _int64(value: Any) -> int:
    return _integer(value, 64)


def _float64(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise _InvalidValueError("a finite number")
    return float(value)


def _float32(value: Any) -> float:
    with np.errstate(over="ignore"):
        single = float(np.float32(_float64(value)))
    if not math.isfinite(single):
        raise _InvalidValueError("a number that float32 can hold")
    return single


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _InvalidValueError("true or false")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not encodable(value):
        raise _InvalidValueError(f"text of at most {LONGEST_TEXT} characters")
    return value


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_string(value), validate=True)
    except ValueError:
        raise _InvalidValueError("bytes in base64") from None


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        aware = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise _InvalidValueError(_MOMENT) from None
    if not _EARLIEST <= aware < _LATEST:
        raise _InvalidValueError(_MOMENT)
    return aware


def _array(value: Any, inner: Callable[[Any], Any]) -> list[Any]:
    if not isinstance(value, list) or len(value) > LONGEST_TEXT:
        raise _InvalidValueError(f"a list of at most {LONGEST_TEXT} values")
    return [None if item is None else inner(item) for item in value]


def _anything(value: Any) -> Any:
    if value is _ABSENT:
        raise _InvalidValueError("any value")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "int32": _int32, "int64": _int64, "float32": _float32, "float64": _float64, "bool": _bool, "string": _string,
    "bytes": _bytes, "unixtimestamp": _moment,
}  # fmt: skip
