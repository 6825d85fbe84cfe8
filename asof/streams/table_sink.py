"""Writes batches of messages to one table and its online views, each event once.

The order, and why:

1. Events get their knowledge time (:mod:`asof.online.watermarks`). Until step 4 no read is answered for a moment at which they are known.
2. The table: under its lock, ids that it has are left out, and the rest is one commit.
3. The online views get what the table now holds under these ids (:class:`asof.tables.event_writer.EventWriter` does 2 and 3).
4. The watermark lets reads see the events.
5. The consumer settles the batch: bad events go to the dead-letter stream, and all messages are acknowledged.

After a crash between any two steps the messages are delivered again. The table and the views leave out what they have,
and stamps are the ones given first, so nothing is lost and nothing counts twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from asof.errors import SettingsError, UsageError
from asof.online import Writer
from asof.online.watermarks import PUSH, Watermark
from asof.repo import Repo
from asof.streams.messages import DeadLetter, EventSource, Message, decode
from asof.tables import Declarations, delta
from asof.tables.checking import Checked, check, layout
from asof.tables.event_writer import EventWriter
from asof.tables.reading import Rows
from asof.tables.schema import Column

Ints = NDArray[np.int64]

Clock = Literal["wall", "events"]
"""Whose clock gives knowledge time: ours, or the events' own (a replay in the order of knowledge time)."""

COMPACT_EVERY = 64
"""Commits after which small data files are merged, in tables where the order of files does not matter."""
COMPACT_TO = 16 * 2**20
"""Data files of this many bytes or more are not merged."""

_NO_ROWS = Rows("", pa.table({}), np.zeros(0, np.int64), typed=False)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Counts of one written batch.

    Attributes:
        added: Events that were new to the table.
        duplicates: Events that the table had already.
        late: Events of an ordered stream with a knowledge time before the watermark; reads may have missed them.
        dead_letters: Events that do not fit the table.
    """

    added: int
    duplicates: int
    late: int
    dead_letters: tuple[DeadLetter, ...]


class TableSink:
    """Writes the events of one table.

    Args:
        repo: The feature repo.
        declared: Its declarations.
        table: Name of the table, or of a push source that feeds it.
        writer: The online store.
        watermark: The table's watermark.
        clock: ``wall`` for knowledge time by our clock, ``events`` for a replay in the order of the events' own knowledge time.
        start: For ``events``: the moment up to which the online store is complete before the first event; by default the
            knowledge time of the table's newest row.

    Raises:
        NotFoundError: There is no such table.
        SettingsError: The table declares no id, so an event that is delivered twice cannot be told from two events.
        UsageError: The table is not a local Delta table, or ``clock`` does not fit it.
    """

    def __init__(
        self, repo: Repo, declared: Declarations, table: str, writer: Writer, watermark: Watermark, clock: Clock = "wall",
        start: int | None = None,
    ) -> None:  # fmt: skip
        self.events = EventWriter(repo, declared, table, writer)
        self.watermark, self.clock, self.start = watermark, clock, start
        self.declaration, self.path = self.events.declaration, self.events.path
        self._columns: tuple[Column, ...] = ()
        self._commits = 0
        if not self.declaration.id:
            raise SettingsError(
                f"source {self.declaration.name!r} has no tag asof.id; a stream delivers events more than once, so they need one"
            )
        if clock == "events" and self.declaration.stamped:
            raise UsageError(
                f"table {self.declaration.name!r} stamps arrival, which is the wall clock's; leave out --clock events"
            )

    def open(self, source: EventSource) -> None:
        """Prepare the watermark: release events that will not be delivered again; for ``events``, set it to the start.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        if self.clock == "events" and self.watermark.value() is None:
            self.watermark.lift((self._newest() if self.start is None else self.start) - 1)
        began = {position for position in self.watermark.under_way() if not position.startswith(PUSH)}
        pending = source.pending() if began else None
        if pending is not None and (orphans := sorted(began - set(pending))):
            self.watermark.finish(orphans)

    def close(self, source: EventSource) -> None:
        """Remove the watermark if an ordered stream was read to its end, so that reads are as of now again."""
        if self.clock == "events" and source.drained():
            self.watermark.remove()

    def write(self, messages: Sequence[Message], source: str) -> BatchResult:
        """Write a batch to the table and the online views; after an error, call it again with the same batch.

        Args:
            messages: The batch.
            source: Name of the stream.

        Raises:
            TableError: The table cannot be written.
            OnlineStoreError: Redis failed.
        """
        clock = time.time_ns() // 1_000
        checked, good, dead_letters = self._checked(messages, source, clock)
        positions = [messages[i].position for i in good.tolist()]
        online_clock = clock
        if self.declaration.stamped and positions:
            stamps, online_clock = self.watermark.begin(positions)
            checked = replace(checked, good=self._stamped(checked.good, stamps))
        elif self.clock == "events":
            online_clock = self.watermark.value() or 0
        added, duplicates = self._write_events(checked.good, clock, online_clock) if positions else (0, 0)
        late = min(added, self._advance(checked.good, online_clock)) if self.clock == "events" and positions else 0
        if self.declaration.stamped:
            self.watermark.finish([m.position for m in messages])
            self._compact(added)
        return BatchResult(added, duplicates, late, tuple(dead_letters))

    def _checked(self, messages: Sequence[Message], source: str, now: int) -> tuple[Checked, Ints, list[DeadLetter]]:
        """The rows that fit the table, the position of each in the batch, and dead letters for the other events."""
        optional = frozenset(n for n in (*self.declaration.derivations, self.declaration.knowledge_field) if n)
        self._columns = self._columns or self._layout()
        decoded = decode(messages, self._columns, optional, source)
        checked = check(decoded.rows, self.declaration, self._columns, now)
        bad = {row.number for row in checked.bad}
        good = np.array([n for n in decoded.rows.numbers.tolist() if n not in bad], np.int64)
        dead_letters = [*decoded.dead_letters, *(DeadLetter(messages[row.number], row.reason) for row in checked.bad)]
        return replace(checked, bad=()), good, dead_letters

    def _stamped(self, rows: pa.Table, stamps: Ints) -> pa.Table:
        """``rows`` with their arrival as knowledge time; a knowledge time that the producer sent is overwritten."""
        name = self.declaration.knowledge_field or ""
        moments = pa.array(stamps).cast(pa.timestamp("us", "UTC"))
        return rows.set_column(rows.column_names.index(name), name, moments)

    def _write_events(self, rows: pa.Table, clock: int, online_clock: int) -> tuple[int, int]:
        """Write to both sides; returns the number of new rows and of duplicates in the table."""
        report = self.events.write([Checked(rows, (), ())], self._columns, clock, online_clock).offline
        return report.rows_added, report.duplicates

    def _advance(self, rows: pa.Table, before: int) -> int:
        """Lift the watermark of an ordered stream; returns the number of rows that were known before it."""
        known = self._known(rows)
        self.watermark.lift(int(known.max()) - 1)
        return int((known <= before).sum())

    def _known(self, rows: pa.Table) -> Ints:
        names = [self.declaration.timestamp_field, self.declaration.knowledge_field]
        columns = [pc.cast(rows[n], pa.int64()).to_numpy() for n in names if n]
        return np.asarray(np.max(columns, axis=0), np.int64)

    def _newest(self) -> int:
        """The latest knowledge time in the table; 0 for an empty table."""
        held = delta.open_table(self.path)
        if held is None:
            return 0
        names = [n for n in (self.declaration.timestamp_field, self.declaration.knowledge_field) if n]
        rows = delta.scan(held, names)
        return int(self._known(rows).max()) if rows.num_rows else 0

    def _layout(self) -> tuple[Column, ...]:
        held = delta.open_table(self.path)
        if held is None and not self.declaration.columns:
            raise SettingsError(
                f"source {self.declaration.name!r} declares no asof.column tags, and its table has no rows to go by; declare them"
            )
        return layout(self.declaration, None if held is None else delta.schema(held), _NO_ROWS)

    def _compact(self, added: int) -> None:
        """Merge small files every :data:`COMPACT_EVERY` commits. Stamps order the rows, so the order of files does not matter."""
        self._commits += added > 0
        if self._commits >= COMPACT_EVERY:
            self._commits = 0
            with delta.locked(self.path):
                held = delta.open_table(self.path)
                if held is not None:
                    held.optimize.compact(target_size=COMPACT_TO)
