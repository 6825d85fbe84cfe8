"""Readiness of a worker: whether it should receive requests, and the reason if not.

A worker is ready when Redis answers, the views applied there fit the model's contract, and the worker was not told to
stop. The store is checked every :attr:`~asof.serving.limits.Limits.check_every` seconds, so a worker becomes ready again by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asof.errors import AsofError
from asof.serving.feature_fetcher import FeatureFetcher
from asof.serving.limits import Limits

_log = logging.getLogger("asof.serving")


STARTING = "the service is starting"
ADDRESS_VARIABLE = "ASOF_SERVING_AT"
"""Environment variable in which ``asof serve`` tells its workers the address, for the line that says that a worker is ready."""


@dataclass
class Readiness:
    """The readiness of one worker.

    Attributes:
        limits: How often to check and how long to wait.
        reason: Why requests cannot be answered; None if they can.
        draining: Whether the worker was told to stop: it still answers, but reports that it is not ready.
    """

    limits: Limits = field(default_factory=Limits)
    reason: str | None = STARTING
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether new requests should be sent to this worker."""
        return self.reason is None and not self.draining

    @property
    def message(self) -> str:
        """Why the worker is not ready, for people."""
        return "the service is stopping" if self.draining else self.reason or "ready"

    async def check(self, fetcher: FeatureFetcher) -> None:
        """Check the online store once."""
        try:
            differences = await asyncio.wait_for(fetcher.check(), timeout=self.limits.timeout)
        except AsofError as error:
            self._set(str(error))
        except TimeoutError:
            self._set(f"Redis gave no answer within {self.limits.timeout:g} s")
        except Exception as error:  # noqa: BLE001 - after any error the worker is not ready and must check again
            self._set(f"the online store cannot be checked ({type(error).__name__})")
        else:
            fit = "the online store does not fit the model's contract: "
            self._set(fit + "; ".join(differences) if differences else None)

    async def watch(self, fetcher: FeatureFetcher) -> None:
        """Check the online store again and again, until cancelled."""
        while True:
            await self.check(fetcher)
            await asyncio.sleep(self.limits.check_every)

    def drain_on_termination(self, last: Callable[[], None]) -> None:
        """On SIGTERM report "not ready" for ``limits.drain`` seconds, then let the server stop listening.

        If the process has not ended ``limits.shutdown`` seconds later, ``last`` is called and the process exits. Does nothing
        outside the main thread, or if no server handles the signal.
        """
        stop: Any = signal.getsignal(signal.SIGTERM)
        if not callable(stop) or threading.current_thread() is not threading.main_thread():
            return

        def begin(number: int, frame: Any) -> None:
            self.draining = True
            _after(self.limits.drain, lambda: stop(number, frame))
            _after(self.limits.drain + self.limits.shutdown, lambda: _end(last))

        signal.signal(signal.SIGTERM, begin)

    def _set(self, reason: str | None) -> None:
        if reason != self.reason:
            address = os.environ.get(ADDRESS_VARIABLE)
            if reason:
                _log.warning("not ready: %s", reason)
            elif address:
                _log.warning("ready at %s", address)
            elif self.reason != STARTING:
                _log.warning("ready again")
        self.reason = reason


def _after(seconds: float, action: Any) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def _end(last: Callable[[], None]) -> None:
    _log.error("the worker did not end in time; ending it now")
    try:
        last()
    finally:
        os._exit(1)
