"""How much a worker takes on, and for how long: plain numbers, each with an environment variable of its name."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any, Self

from asof.errors import SettingsError

PREFIX = "ASOF_SERVE_"

_KUBERNETES = (f"{PREFIX}SERVICE_", f"{PREFIX}PORT")
"""What Kubernetes sets in every pod beside a service called ``asof-serve``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one worker; ``ASOF_SERVE_MAX_ROWS=200`` in the environment sets ``max_rows``, and so on.

    Attributes:
        max_rows: Rows in a request.
        max_body: Bytes in a request's body.
        max_in_flight: Requests being answered at one time; one more is told to come back.
        timeout: Seconds from the first byte of a request to its answer.
        drain: Seconds between being told to stop and refusing connections, so that a load balancer can look away first.
        shutdown: Seconds after that until a worker that has not ended ends itself.
        check_every: Seconds between two looks at Redis and at what is applied there.
        log_rows: Rows of the prediction log that may wait to be written; more are dropped, and counted.
        log_seconds: Seconds that a row of the prediction log waits at most before its file is begun.
        log_batch: Rows after which a file is begun at once.
    """

    max_rows: int = 1_000
    max_body: int = 4 * 1024 * 1024
    max_in_flight: int = 128
    timeout: float = 10.0
    drain: float = 1.0
    shutdown: float = 20.0
    check_every: float = 1.0
    log_rows: int = 100_000
    log_seconds: float = 2.0
    log_batch: int = 5_000

    @classmethod
    def from_environment(cls) -> Self:
        """The limits that the environment sets.

        Raises:
            SettingsError: A variable is unknown or holds something else than a positive number.
        """
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        given = {n: text for n, text in os.environ.items() if n.startswith(PREFIX) and not n.startswith(_KUBERNETES)}
        if unknown := sorted(set(given) - set(known)):
            raise SettingsError(f"unknown environment variables {unknown}; known: {sorted(known)}")
        numbers: dict[str, Any] = {}
        for name, text in given.items():
            numbers[known[name].name] = _number(name, text, whole=known[name].type == "int")
        return cls(**numbers)


def _number(name: str, text: str, *, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = -1
    if not (number > 0 if whole else 0 <= number < math.inf):
        kind = "a whole number from 1" if whole else "a number of seconds"
        raise SettingsError(f"{name} is {text!r}, expected {kind}")
    return number
