"""Producing: rows onto the stream of their table. For tests, replays, demos, and programs that have Arrow tables anyway."""

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
from asof.tables import declarations

AT_ONCE = 2_000
"""Entries that are sent together."""


class Outlet(Protocol):
    """Where events are sent to."""

    def send(self, stream: str, payloads: Sequence[bytes]) -> None:
        """Append events to a stream, in order; they are there when the call returns."""
        ...

    def close(self) -> None:
        """Give back the connection."""
        ...


class RedisOutlet:
    """Appends to Redis Streams."""

    def __init__(self, settings: OnlineSettings, client: Client | None = None) -> None:
        self.settings = settings
        self.client: Client = client if client is not None else connect(settings)

    def send(self, stream: str, payloads: Sequence[bytes]) -> None:
        """As :meth:`Outlet.send`.

        Raises:
            OnlineStoreError: Redis does not take them; some may be there.
        """
        with translated(self.settings):
            for at in range(0, len(payloads), AT_ONCE):
                with self.client.pipeline(transaction=False) as pipe:
                    for payload in payloads[at : at + AT_ONCE]:
                        pipe.xadd(stream, {FIELD: payload})
                    pipe.execute()

    def close(self) -> None:
        """Give back the connection."""
        self.client.close()


class Sender:
    """Sends rows of tables to their streams; takes the place of :class:`asof.tables.Pusher`.

    Args:
        repo: The feature repo.
        tables: Tables, or push sources that feed them.
        outlet: Where to; by default the streams in the repo's Redis.
        names: Table -> stream, where it is not the default one.

    Raises:
        NotFoundError: There is no such table.
        OnlineStoreError: Redis does not start.
    """

    def __init__(
        self, repo: Repo, tables: Sequence[str], outlet: Outlet | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        declared = declarations(repo)
        known = {table: declared.table(table).name for table in tables}
        self.streams = {
            table: (names or {}).get(table) or stream_name(repo.settings.project, name) for table, name in known.items()
        }
        self.outlet: Outlet = outlet or RedisOutlet(repo.settings.online)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.outlet.close()

    def push(self, table: str, batch: pa.Table | Sequence[Mapping[str, Any]]) -> int:
        """Send rows, in order; returns how many. They are checked by whoever consumes them.

        Raises:
            OnlineStoreError: The stream cannot be reached.
        """
        rows = batch if isinstance(batch, pa.Table) else pa.Table.from_pylist(list(batch))
        self.outlet.send(self.streams[table], encode(rows))
        return int(rows.num_rows)
