"""The errors that clients receive, all in one JSON shape.

::

    {"error": {"code": "invalid_rows", "message": "row 3, field 'amount': is missing",
               "problems": [{"row": 3, "field": "amount", "problem": "is missing"}], "request_id": "..."}}

A message never holds a value of the request. Internal details go to the log, not to the client.
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
"""Value of the header ``Retry-After`` of a 503 response, in seconds."""

MOST_PROBLEMS = 20
"""Most problems listed in one response."""


class ProblemError(AsofError):
    """A request that gets no prediction.

    Args:
        code: One of :data:`STATUS`.
        message: One line for the client.
        problems: The wrong rows and fields, if there are any.
        status: HTTP status, if it differs from the one of the code.
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
        """The response's body without the request id."""
        listed = [{"row": p.row, "field": p.field, "problem": p.problem} for p in self.problems[:MOST_PROBLEMS]]
        return {"code": self.code, "message": self.message, "problems": listed}


@dataclass(frozen=True, slots=True)
class _FrameworkError:
    """Code and message for an HTTP status that BentoML answered with."""

    code: str
    message: str


_FAILED = _FrameworkError("internal", "something failed inside the service")
_REFUSED = _FrameworkError("refused", "the request was refused")
_FRAMEWORK = {
    404: _FrameworkError("not_found", "there is nothing at this path; predictions are at POST /predict"),
    405: _FrameworkError("method_not_allowed", "this path does not take this method; predictions are at POST /predict"),
    413: _FrameworkError("too_large", "the request is too large"),
    415: _FrameworkError("unsupported_media_type", "the request's content type is not application/json"),
    503: _FrameworkError("not_ready", "the service is not ready"),
}


def from_status(status: int) -> ProblemError:
    """The problem for an error status that BentoML, not this package, answered with."""
    known = _FRAMEWORK.get(status) or (_FAILED if status >= 500 else _REFUSED)
    return ProblemError(known.code, known.message, status=status)
