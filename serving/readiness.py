"""Whether a worker should be sent requests, and if not, why not.

A worker is ready when Redis answers, what is applied there is what the model was trained under, and nobody has told the
worker to stop. It looks every :attr:`~serving.limits.Limits.check_every` seconds, so it recovers by itself.
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
from serving.limits import Limits
from serving.store import Store

_log = logging.getLogger("asof.serving")


STARTING = "the service is starting"


@dataclass
class Readiness:
    """Of one worker.

    Attributes:
        reason: Why requests cannot be answered; None when they can.
        draining: Whether the worker was told to stop: it still answers but asks for no new requests.
    """

    limits: Limits = field(default_factory=Limits)
    reason: str | None = STARTING
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.reason is None and not self.draining

    @property
    def message(self) -> str:
        """Why the worker is not ready, for people."""
        return "the service is stopping" if self.draining else self.reason or "ready"

    async def look(self, store: Store) -> None:
        """Ask the store once."""
        try:
            differences = await asyncio.wait_for(store.check(), timeout=self.limits.timeout)
        except AsofError as error:
            self._tell(str(error))
        except TimeoutError:
            self._tell(f"Redis gave no answer within {self.limits.timeout:g} s")
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker is not ready and must look again
            self._tell(f"the online store cannot be checked ({type(error).__name__})")
        else:
            fit = "the online store does not fit the model's contract: "
            self._tell(fit + "; ".join(differences) if differences else None)

    async def watch(self, store: Store) -> None:
        """Ask the store again and again, until cancelled."""
        while True:
            await self.look(store)
            await asyncio.sleep(self.limits.check_every)

    def drain_on_termination(self, last: Callable[[], None]) -> None:
        """On SIGTERM say "not ready" for a while before the server stops to listen, and make sure that it does end.

        A worker that has not ended by then is ended after ``last`` was called. Does nothing outside a server (where nobody handles the signal) and outside the main thread.
        """
        stop: Any = signal.getsignal(signal.SIGTERM)
        if not callable(stop) or threading.current_thread() is not threading.main_thread():
            return

        def begin(number: int, frame: Any) -> None:
            self.draining = True
            _after(self.limits.drain, lambda: stop(number, frame))
            _after(self.limits.drain + self.limits.shutdown, lambda: _end(last))

        signal.signal(signal.SIGTERM, begin)

    def _tell(self, reason: str | None) -> None:
        if reason != self.reason and (reason or self.reason != STARTING):
            _log.warning("%s", f"not ready: {reason}" if reason else "ready again")
        self.reason = reason


def _after(seconds: float, action: Any) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def _end(last: Callable[[], None]) -> None:
    _log.error("the worker did not end in time and is ended now")
    try:
        last()
    finally:
        os._exit(1)
