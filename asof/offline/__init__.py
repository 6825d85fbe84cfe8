"""The offline store: what every feature was worth at every moment of the past, as its consumers would have known it.

:func:`retrieve` answers with a table, :func:`retrieve_to` with a Parquet file that may be larger than memory,
:func:`rebuild` makes such a file again. None of them imports Feast; ``DuckDBOfflineStore`` is the same engine behind Feast's
own interface.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "DuckDBOfflineStore": "asof.feast.offline_store",
    "DuckDBOfflineStoreConfig": "asof.feast.offline_store",
    "EngineSettings": "asof.offline.duckdb_engine",
    "Provenance": "asof.offline.rebuild_dataset",
    "clean": "asof.offline.vacuum",
    "rebuild": "asof.offline.rebuild_dataset",
    "retrieve": "asof.offline.retrieval",
    "retrieve_to": "asof.offline.out_of_core",
    "versions_in_use": "asof.offline.vacuum",
}

__all__ = sorted(_PLACES)  # noqa: PLE0605  one list of names, kept in one place


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
