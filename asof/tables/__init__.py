"""Offline tables: what they must hold, how rows get in, what happened to them. Nothing here knows what the rows are about."""

from asof.tables.declarations import Declarations, declarations
from asof.tables.ingest import IngestReport, ingest
from asof.tables.schema import TableDeclaration

__all__ = ["Declarations", "IngestReport", "TableDeclaration", "declarations", "ingest"]
