"""Sends rows to the stream of their table: for tests, replays, demos, and programs that hold Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa

from asof.online.redis.connections import Client, connect, translated
from asof.repo import Repo
from asof.settings import OnlineSettings
from asof.streams.messages import encode
from asof.streams.redis_source import FIELD, stream_name
from asof.tables.declarations import declarations

AT_ONCE = 2_000
"""Entries sent in one pipeline."""


class EventPublisher(Protocol):
    """A destination of events."""

    def send(self, stream: str, payloads: Sequence[bytes]) -> None:
        """Append events to a stream, in order; the stream has them when the call returns."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class RedisPublisher:
    """Appends to Redis Streams."""

    def __init__(self, settings: OnlineSettings, client: Client | None = None) -> None:
        self.settings = settings
        self.client: Client = client if client is not None else connect(settings)

    def send(self, stream: str, payloads: Sequence[bytes]) -> None:
        """As :meth:`EventPublisher.send`.

        Raises:
            OnlineStoreError: Redis refused them; the stream may have some of them.
        """
        with translated(self.settings):
            for at in range(0, len(payloads), AT_ONCE):
                with self.client.pipeline(transaction=False) as pipe:
                    for payload in payloads[at : at + AT_ONCE]:
                        pipe.xadd(stream, {FIELD: payload})
                    pipe.execute()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


class Producer:
    """Sends rows of tables to their streams; has the interface of :class:`asof.tables.Pusher`.

    Args:
        repo: The feature repo.
        tables: Tables, or push sources that feed them.
        publisher: The destination; by default the streams in the repo's Redis.
        names: Table -> stream, if it is not the default one.

    Raises:
        NotFoundError: There is no such table.
        OnlineStoreError: Redis does not start.
    """

    def __init__(
        self,
        repo: Repo,
        tables: Sequence[str],
        publisher: EventPublisher | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        declared = declarations(repo)
        known = {table: declared.table(table).name for table in tables}
        self.streams = {
            table: (names or {}).get(table) or stream_name(repo.settings.project, name) for table, name in known.items()
        }
        self.publisher: EventPublisher = publisher or RedisPublisher(repo.settings.online)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.publisher.close()

    def push(self, table: str, batch: pa.Table | Sequence[Mapping[str, Any]]) -> int:
        """Send rows, in order; returns their number. The consumer checks them.

        Raises:
            OnlineStoreError: The stream cannot be reached.
        """
        rows = batch if isinstance(batch, pa.Table) else pa.Table.from_pylist(list(batch))
        self.publisher.send(self.streams[table], encode(rows))
        return int(rows.num_rows)
