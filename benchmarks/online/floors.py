"""The floor of a read: the same HMGET commands on a bare socket, replies received but not parsed.

``floor`` blocks until the reply arrives, as clients do; ``floor, polled`` polls the socket. The first is the bound of any
client that blocks; the second is what the network and Redis take.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import hiredis
import numpy as np

from asof.online import Reader
from asof.online.redis.store import packed


def floors(reader: Reader, wanted: Sequence[int], port: int) -> dict[str, Callable[[], None]]:
    """Both floors for these keys."""
    reader.read({"key": wanted}, np.zeros(len(wanted), np.int64))
    lookups = reader.plan.lookups({"key": wanted}, len(wanted))
    command = packed("bench", reader.plan.requests(lookups))
    size = _size(command, 2 + sum(len(a.keys) for a in lookups), port)
    sleeping, polling = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
    polling.setblocking(False)
    buffer = bytearray(1 << 20)

    def sleep() -> None:
        sleeping.sendall(command)
        received = 0
        while received < size:
            received += sleeping.recv_into(buffer)

    def poll() -> None:
        polling.sendall(command)
        received = 0
        while received < size:
            try:
                received += polling.recv_into(buffer)
            except BlockingIOError:
                continue

    return {"floor": sleep, "floor, polled": poll}


def _size(command: bytes, count: int, port: int) -> int:
    """Bytes of the answer."""
    parser, replies, size = hiredis.Reader(), 0, 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(command)
        while replies < count:
            received = connection.recv(1 << 20)
            size += len(received)
            parser.feed(received)
            while parser.gets() is not False:
                replies += 1
    return size
