"""The exceptions that asof raises.

All have one root, so that callers can catch every error of asof at once:

    AsofError                      something failed (exit code 3)
    ├── UsageError                 the request makes no sense (exit code 2)
    │   ├── NotFoundError          a name that is not declared
    │   ├── SettingsError          a setting, a declaration or a file of settings is wrong
    │   ├── SchemaError            data does not have the columns or types that were declared
    │   └── RequestError           one row of a request is wrong; names the row and the field
    ├── CheckFailedError           a check failed (exit code 1)
    ├── SourceError                a declared source cannot be read
    ├── TableError                 a table cannot be written
    ├── OnlineStoreError           Redis is down, full, or gave an invalid reply
    ├── ContractError              a contract does not fit the online store
    ├── BundleError                a model bundle is missing, damaged or from another version
    └── ServiceError               a prediction service does not answer, or not as it should

Messages are one line: what was given, what was expected, what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class AsofError(Exception):
    """Root of all errors of asof; ``exit_code`` is the exit code of the command line."""

    exit_code: ClassVar[int] = 3


class UsageError(AsofError):
    """The request makes no sense as it is; the caller must change it."""

    exit_code: ClassVar[int] = 2


class NotFoundError(UsageError):
    """A name that is not declared.

    Args:
        kind: What was looked for, in the singular ("feature service").
        name: The name that was given.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        close = difflib.get_close_matches(name, self.known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        exists = ", ".join(self.known) if self.known else "none is declared"
        super().__init__(f"no {kind} named {name!r}{hint} (known: {exists})")


class SettingsError(UsageError):
    """A setting, a declaration or a file of settings is wrong."""


class SchemaError(UsageError):
    """Data does not have the columns or types that were declared."""


class RequestError(UsageError):
    """One row of a request is wrong.

    Args:
        row: 0-based position of the row in the request; None when the request as a whole is wrong.
        field: Name of the field.
        problem: What is wrong and what was expected, without the value itself.
    """

    def __init__(self, row: int | None, field: str, problem: str) -> None:
        self.row, self.field, self.problem = row, field, problem
        where = f"row {row}, " if row is not None else ""
        super().__init__(f"{where}field {field!r}: {problem}")


class CheckFailedError(AsofError):
    """A check ran and failed."""

    exit_code: ClassVar[int] = 1


class NoPredictionsError(AsofError):
    """A model has no predictions yet, so there is nothing to judge."""

    exit_code: ClassVar[int] = 4


class SourceError(AsofError):
    """A declared source cannot be read."""


class TableError(AsofError):
    """A table cannot be written."""


class OnlineStoreError(AsofError):
    """Redis is down, full, or gave an invalid reply."""


class ContractError(AsofError):
    """A contract does not fit the online store."""


class BundleError(AsofError):
    """A model bundle is missing, damaged or from another version."""


class ServiceError(AsofError):
    """A prediction service does not answer, or not as it should."""
