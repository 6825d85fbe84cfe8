"""Offline tables: what they must hold, how rows get in, what happened to them. Nothing here knows what the rows are about."""

from asof.tables.declarations import Declarations, declarations
from asof.tables.event_writer import EventWriter, WriteReport
from asof.tables.history import TableHistory, TableState, TableStates, TableVersion, states, tables, versions
from asof.tables.ingest import IngestReport, ingest
from asof.tables.push import Pusher, push
from asof.tables.schema import TableDeclaration

__all__ = [
    "Declarations",
    "EventWriter",
    "IngestReport",
    "Pusher",
    "TableDeclaration",
    "TableHistory",
    "TableState",
    "TableStates",
    "TableVersion",
    "WriteReport",
    "declarations",
    "ingest",
    "push",
    "states",
    "tables",
    "versions",
]
