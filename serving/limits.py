"""Limits of a worker on requests, times and queues, each set by an environment variable of the same name."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any, Self

from asof.errors import SettingsError

PREFIX = "ASOF_SERVE_"

_KUBERNETES = (f"{PREFIX}SERVICE_", f"{PREFIX}PORT")
"""Variables that Kubernetes sets in every pod if a service is called ``asof-serve``; they are ignored."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one worker; ``ASOF_SERVE_MAX_ROWS=200`` in the environment sets ``max_rows``, and so on.

    Attributes:
        max_rows: Rows in a request.
        max_body: Bytes in a request's body.
        max_in_flight: Requests in progress at one time; further ones get status 503.
        timeout: Seconds from the first byte of a request to its answer.
        drain: Seconds from SIGTERM until the server refuses connections, so that a load balancer can stop sending first.
        shutdown: Seconds after ``drain`` until a worker that is still running exits.
        check_every: Seconds between two checks of Redis and of the views applied there.
        log_rows: Rows of the prediction log that may wait to be written; further rows are dropped and counted.
        log_seconds: Most seconds that a row of the prediction log waits before a file is started.
        log_batch: Number of waiting rows at which a file is started at once.
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
            SettingsError: A variable is unknown or is not a positive number.
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
