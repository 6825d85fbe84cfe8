"""What a client is told when it gets no prediction: one shape for every cause.

::

    {"error": {"code": "invalid_rows", "message": "row 3, field 'amount': is missing",
               "problems": [{"row": 3, "field": "amount", "problem": "is missing"}], "request_id": "..."}}

A message never holds a value of the request. What happened inside is told to the log, not to the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asof.errors import AsofError, RequestError

STATUS = {
    "invalid_json": 400,
    "invalid_rows": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "unsupported_media_type": 415,
    "refused": 400,
    "internal": 500,
    "not_ready": 503,
    "overloaded": 503,
    "timeout": 503,
}
"""Code -> HTTP status."""

RETRY_AFTER = 1
"""Seconds after which a client that was told 503 should try again."""

MOST_PROBLEMS = 20
"""Problems listed in one answer; a request with more is not going to be repaired by hand."""


class ProblemError(AsofError):
    """A request that gets no prediction.

    Args:
        code: One of :data:`STATUS`.
        message: One line for the client.
        problems: The rows and fields that are wrong, if that is the cause.
        status: HTTP status where it is not the code's own.
    """

    def __init__(
        self, code: str, message: str, problems: Sequence[RequestError] = (), status: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.problems = code, message, tuple(problems)
        self.status = status or STATUS[code]
        self.request_id: str | None = None

    @property
    def payload(self) -> dict[str, Any]:
        """The answer's body, but for the request id."""
        listed = [{"row": p.row, "field": p.field, "problem": p.problem} for p in self.problems[:MOST_PROBLEMS]]
        return {"code": self.code, "message": self.message, "problems": listed}


@dataclass(frozen=True, slots=True)
class _Framework:
    """How an HTTP status that the framework chose is told."""

    code: str
    message: str


_FAILED = _Framework("internal", "something failed inside the service")
_REFUSED = _Framework("refused", "the request was refused")
_FRAMEWORK = {
    404: _Framework("not_found", "there is nothing at this path; predictions are at POST /predict"),
    405: _Framework("method_not_allowed", "this path does not take this method; predictions are at POST /predict"),
    413: _Framework("too_large", "the request is too large"),
    415: _Framework("unsupported_media_type", "the request's content type is not application/json"),
    503: _Framework("not_ready", "the service is not ready"),
}


def from_status(status: int) -> ProblemError:
    """The problem for an error status that the framework, not this package, answered with."""
    known = _FRAMEWORK.get(status) or (_FAILED if status >= 500 else _REFUSED)
    return ProblemError(known.code, known.message, status=status)
