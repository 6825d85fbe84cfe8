"""One table's intake: a batch of messages in, both sides up to date, each event once.

The order, and why. (1) Events get their knowledge time (:mod:`asof.online.watermarks`); until the last step no read answers
for a moment at which they are known. (2) The table: under its lock, ids that it has are left out, the rest is one commit.
What it holds under an id now is what the id means. (3) The online views get exactly that, also for ids that the table had
already; they leave out ids they have. (4) The watermark lets readers see it. (5) The source is told, which puts bad
events on the dead-letter stream and acknowledges all in one step.

After a crash between any two of these steps the messages are delivered again: the table leaves out what it has, the views
leave out what they have, and stamps are the ones given first. So nothing is lost and nothing counts twice.
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
from asof.streams.messages import Letter, Message, Source, decode
from asof.tables import Declarations, delta
from asof.tables.checking import Checked, check, layout
from asof.tables.ingest import commit
from asof.tables.push import as_held, spelled
from asof.tables.reading import Rows
from asof.tables.schema import Column, TableDeclaration

Ints = NDArray[np.int64]

Clock = Literal["wall", "events"]
"""Whose time it is: ours, or that of the events (a replay, in the order of knowledge time)."""

COMPACT_EVERY = 64
"""Commits after which small data files are merged, where their order does not matter."""
COMPACT_TO = 16 * 2**20
"""Bytes of a data file from which it is left alone."""

_NO_ROWS = Rows("", pa.table({}), np.zeros(0, np.int64), typed=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch.

    Attributes:
        added: Events that the table did not have.
        duplicates: Events that it had.
        late: Of an ordered stream, events that were known before the watermark: reads may have missed them.
        letters: Events that the table cannot hold.
    """

    added: int
    duplicates: int
    late: int
    letters: tuple[Letter, ...]


class Intake:
    """Takes in the events of one table.

    Args:
        repo: The feature repo.
        declared: Its declarations.
        table: Name of the table, or of a push source that feeds it.
        writer: The online store.
        watermark: The table's watermark.
        clock: Whose time it is.
        start: Of an ordered stream, the moment up to which the online store is complete before its first event; without
            one, up to the newest row of the table.

    Raises:
        NotFoundError: There is no such table.
        SettingsError: The table declares no id, so that an event that is delivered twice cannot be told from two events.
        UsageError: The table is no local Delta table, or ``clock`` does not fit it.
    """

    def __init__(
        self, repo: Repo, declared: Declarations, table: str, writer: Writer, watermark: Watermark, clock: Clock = "wall",
        start: int | None = None,
    ) -> None:  # fmt: skip
        self.repo, self.writer, self.watermark, self.clock, self.start = repo, writer, watermark, clock, start
        self.declaration: TableDeclaration = declared.table(table)
        self.views = [v for v in declared.readers(self.declaration.name) if v.online]
        self.path = delta.folder(repo, self.declaration)
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

    def open(self, source: Source) -> None:
        """Make the watermark true before the first message: forget events that nobody will deliver again; start in order.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        if self.clock == "events" and self.watermark.value() is None:
            self.watermark.lift((self._newest() if self.start is None else self.start) - 1)
        began = {position for position in self.watermark.under_way() if not position.startswith(PUSH)}
        pending = source.pending() if began else None
        if pending is not None and (orphans := sorted(began - set(pending))):
            self.watermark.finish(orphans)

    def close(self, source: Source) -> None:
        """After an ordered stream was read to its end reads are as of now again."""
        if self.clock == "events" and source.drained():
            self.watermark.remove()

    def take(self, messages: Sequence[Message], source: str) -> Outcome:
        """Write a batch to both sides; call it again with the same batch after an error.

        Args:
            messages: The batch.
            source: Name of the stream.

        Raises:
            TableError: The table cannot be written.
            OnlineStoreError: Redis failed.
        """
        clock = time.time_ns() // 1_000
        checked, good, letters = self._checked(messages, source, clock)
        positions = [messages[i].position for i in good.tolist()]
        online_clock = clock
        if self.declaration.stamped and positions:
            stamps, online_clock = self.watermark.begin(positions)
            checked = replace(checked, good=self._stamped(checked.good, stamps))
        elif self.clock == "events":
            online_clock = self.watermark.value() or 0
        added, duplicates = self._write(checked.good, clock, online_clock) if positions else (0, 0)
        late = min(added, self._advance(checked.good, online_clock)) if self.clock == "events" and positions else 0
        if self.declaration.stamped:
            self.watermark.finish([m.position for m in messages])
            self._compact(added)
        return Outcome(added, duplicates, late, tuple(letters))

    def _checked(self, messages: Sequence[Message], source: str, now: int) -> tuple[Checked, Ints, list[Letter]]:
        """The rows that fit, the position of each in the batch, and the events that do not."""
        optional = frozenset(n for n in (*self.declaration.derivations, self.declaration.knowledge_field) if n)
        self._columns = self._columns or self._layout()
        decoded = decode(messages, self._columns, optional, source)
        checked = check(decoded.rows, self.declaration, self._columns, now)
        bad = {row.number for row in checked.bad}
        good = np.array([n for n in decoded.rows.numbers.tolist() if n not in bad], np.int64)
        letters = [*decoded.letters, *(Letter(messages[row.number], row.reason) for row in checked.bad)]
        return replace(checked, bad=()), good, letters

    def _stamped(self, rows: pa.Table, stamps: Ints) -> pa.Table:
        """Known from their arrival on, whatever their sender says."""
        name = self.declaration.knowledge_field or ""
        moments = pa.array(stamps).cast(pa.timestamp("us", "UTC"))
        return rows.set_column(rows.column_names.index(name), name, moments)

    def _write(self, rows: pa.Table, clock: int, online_clock: int) -> tuple[int, int]:
        """The table first: what it holds under an id is what the views get. Returns how many rows were new, and how many not."""
        report = commit(self.repo, self.declaration, self._columns, [Checked(rows, (), ())], clock, files=0)
        held = as_held(self.path, rows, self.declaration.id) if report.duplicates else rows
        for view in self.views:
            self.writer.write(view, spelled(view, self.declaration, held), now=online_clock)
        return report.rows_added, report.duplicates

    def _advance(self, rows: pa.Table, before: int) -> int:
        """Lift the watermark of an ordered stream; returns how many rows came after it had passed them."""
        known = self._known(rows)
        self.watermark.lift(int(known.max()) - 1)
        return int((known <= before).sum())

    def _known(self, rows: pa.Table) -> Ints:
        names = [self.declaration.timestamp_field, self.declaration.knowledge_field]
        columns = [pc.cast(rows[n], pa.int64()).to_numpy() for n in names if n]
        return np.asarray(np.max(columns, axis=0), np.int64)

    def _newest(self) -> int:
        """The latest moment at which a row of the table became known; 0 where it has none."""
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
        """Merge small files now and then; stamps order the rows, so that the order of the files does not."""
        self._commits += added > 0
        if self._commits >= COMPACT_EVERY:
            self._commits = 0
            with delta.locked(self.path):
                held = delta.open_table(self.path)
                if held is not None:
                    held.optimize.compact(target_size=COMPACT_TO)
