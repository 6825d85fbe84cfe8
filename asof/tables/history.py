"""State and history of the tables, read from the Delta logs alone; no data file is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from asof.errors import SourceError, UsageError
from asof.instants import format_moment, to_micros
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo
from asof.tables import delta, quarantine
from asof.tables.declarations import declarations
from asof.tables.schema import TableDeclaration


@dataclass(frozen=True)
class TableState:
    """The state of a table.

    Attributes:
        table: Its name.
        format: ``delta`` or ``parquet``.
        version: Its newest version; None where it has none.
        rows: Number of rows; None if the table does not exist yet.
        files: Number of data files.
        bytes: Their size.
        first: Earliest event time, microseconds; None where unknown.
        last: Latest event time, microseconds; None where unknown.
        quarantined: Rows in its quarantine.
        path: Its folder.
    """

    table: str
    format: str
    version: int | None
    rows: int | None
    files: int
    bytes: int
    first: int | None
    last: int | None
    quarantined: int
    path: str

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class TableVersion:
    """One commit of a table: time (microseconds), operation, and its numbers of rows: read, added, duplicate and quarantined."""

    version: int
    moment: int
    operation: str
    rows_added: int | None
    rows_read: int | None
    duplicates: int | None
    quarantined: int | None

    def to_dict(self) -> dict[str, Any]:
        """The commit as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class TableStates(Rendered, Sequence[TableState]):
    """The state of every table, sorted by name."""

    states: tuple[TableState, ...]

    def __len__(self) -> int:
        return len(self.states)

    @overload
    def __getitem__(self, index: int) -> TableState: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TableState, ...]: ...
    def __getitem__(self, index: int | slice) -> TableState | tuple[TableState, ...]:
        return self.states[index]

    def parts(self) -> Iterator[str | ResultTable]:
        """One line for each table."""
        if not self.states:
            yield "no table is declared yet; declare a FileSource and run `asof apply`"
            return
        rows = [
            (s.table, s.version, s.rows, s.files, s.bytes / 1e6, _told(s.first), _told(s.last), s.quarantined)
            for s in self.states
        ]
        yield ResultTable(("table", "version", "rows", "files", "MB", "first event", "last event", "quarantined"), rows)

    def to_dict(self) -> dict[str, Any]:
        """The states as JSON-ready data."""
        return {"tables": [state.to_dict() for state in self.states]}


@dataclass(frozen=True, repr=False)
class TableHistory(Rendered, Sequence[TableVersion]):
    """The commits of a table, newest first."""

    table: str
    versions: tuple[TableVersion, ...]

    def __len__(self) -> int:
        return len(self.versions)

    @overload
    def __getitem__(self, index: int) -> TableVersion: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TableVersion, ...]: ...
    def __getitem__(self, index: int | slice) -> TableVersion | tuple[TableVersion, ...]:
        return self.versions[index]

    def parts(self) -> Iterator[str | ResultTable]:
        """One line for each commit."""
        if not self.versions:
            yield f"{self.table} has no rows yet; add some with `asof ingest {self.table} FILE`"
            return
        rows = [
            (c.version, format_moment(c.moment), c.operation, c.rows_read, c.rows_added, c.duplicates, c.quarantined)
            for c in self.versions
        ]
        yield ResultTable(("version", "when", "what", "read", "added", "duplicates", "quarantined"), rows)

    def to_dict(self) -> dict[str, Any]:
        """The commits as JSON-ready data."""
        return {"table": self.table, "versions": [commit.to_dict() for commit in self.versions]}


def tables(repo: Repo, name: str | None = None) -> TableStates | TableHistory:
    """The state of every table, or the versions of one.

    Raises:
        SourceError: Nothing is declared yet, or a table is damaged.
        NotFoundError: There is no such table.
        UsageError: The named table is no local Delta table, so it has no versions.
    """
    return TableStates(tuple(states(repo))) if name is None else TableHistory(name, tuple(versions(repo, name)))


def states(repo: Repo) -> list[TableState]:
    """The state of every declared table, sorted by name.

    Raises:
        SourceError: Nothing is declared yet, or a table is damaged.
    """
    return [_state(repo, declaration) for declaration in declarations(repo).tables.values()]


def versions(repo: Repo, table: str) -> list[TableVersion]:
    """The commits of a table, newest first; empty where it has none.

    Raises:
        NotFoundError: There is no such table.
        UsageError: It is no local Delta table.
    """
    held = delta.open_table(delta.folder(repo, declarations(repo).table(table)))
    commits: list[dict[str, Any]] = held.history() if held is not None else []
    return [_version(commit) for commit in commits]


def _state(repo: Repo, declaration: TableDeclaration) -> TableState:
    bad = quarantine.count(repo, declaration.name)
    try:
        path = delta.folder(repo, declaration)
    except UsageError:
        return _parquet(repo, declaration, bad)
    held = delta.open_table(path)
    if held is None:
        return TableState(declaration.name, "delta", None, None, 0, 0, None, None, bad, str(path))
    actions = delta.actions(held)
    return TableState(
        declaration.name,
        "delta",
        held.version(),
        held.count(),
        actions.num_rows,
        sum(actions["size_bytes"].to_pylist()),
        min(_moments(actions, f"min.{declaration.timestamp_field}"), default=None),
        max(_moments(actions, f"max.{declaration.timestamp_field}"), default=None),
        bad,
        str(path),
    )


def _told(moment: int | None) -> str | None:
    return None if moment is None else format_moment(moment)


def _moments(actions: pa.Table, name: str) -> list[int]:
    values = actions[name].to_pylist() if name in actions.column_names else []
    return [to_micros(v) for v in values if isinstance(v, datetime)]


def _parquet(repo: Repo, declaration: TableDeclaration, bad: int) -> TableState:
    path = repo.path / declaration.path
    found = [path] if path.is_file() else sorted(Path(path).rglob("*.parquet"))
    try:
        rows = sum(pq.read_metadata(file).num_rows for file in found) if found else None
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    size = sum(file.stat().st_size for file in found)
    return TableState(declaration.name, declaration.format, None, rows, len(found), size, None, None, bad, str(path))


def _version(commit: dict[str, Any]) -> TableVersion:
    counts = {name: commit.get(f"asof.{name}") for name in ("rows_added", "rows_read", "duplicates", "quarantined")}
    counts["rows_added"] = counts["rows_added"] or commit.get("operationMetrics", {}).get("num_added_rows")
    numbers = {name: None if value is None else int(value) for name, value in counts.items()}
    return TableVersion(int(commit["version"]), int(commit["timestamp"]) * 1_000, str(commit["operation"]), **numbers)
