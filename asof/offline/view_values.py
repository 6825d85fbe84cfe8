"""The values of one view at the moments of entity rows: of a plain view the newest known row, of a windowed one aggregations."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.offline.arrow_columns import conform, event_values
from asof.offline.source_rows import EntityRows, KeyPartition, SourceRows, read_source
from asof.offline.take import Take
from asof.windows import aggregate, newest

if TYPE_CHECKING:
    from asof.contract import View
    from asof.offline.engine import Engine
    from asof.offline.sources import SourceFiles

_THREADS = 2
"""Threads that build the columns of one view; more of them only wait for memory."""


def view_values(
    view: View,
    features: Sequence[str],
    files: SourceFiles,
    entity_rows: EntityRows,
    engine: Engine,
    *,
    knowledge: bool,
    partition: KeyPartition | None = None,
) -> dict[str, pa.Array]:
    """The ``features`` of ``view``: one value per entity row, in their order and in the declared types.

    Raises:
        SchemaError: The entity rows do not have the view's keys.
        SourceError: The source cannot be read, or holds a value that does not fit its declaration.
    """
    values = _windowed_values if view.windowed else _plain_values
    return values(view, features, files, entity_rows, engine, knowledge, partition)


def _plain_values(
    view: View,
    features: Sequence[str],
    files: SourceFiles,
    entity_rows: EntityRows,
    engine: Engine,
    knowledge: bool,
    partition: KeyPartition | None,
) -> dict[str, pa.Array]:
    columns = {name: view.source.column(name) for name in features}
    rows = read_source(
        view, files, list(columns.values()), entity_rows, engine, knowledge=knowledge, partition=partition
    )
    take, stored = Take(_positions(view, rows)), rows.columns
    del rows

    def value(name: str) -> pa.Array:
        return conform(taken[columns[name]], view.feature(name).dtype, f"feature {view.name}:{name}")

    taken: dict[str, pa.Array] = {}
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for block in stored.blocks(list(dict.fromkeys(columns.values()))):
            taken |= dict(zip(block.column_names, pool.map(take.values, block.columns), strict=True))
            del block
        return dict(zip(columns, pool.map(value, columns), strict=True))


def _positions(view: View, rows: SourceRows) -> NDArray[np.int64]:
    """Positions in the source of the rows that the entity rows get their values from; -1 for missing."""
    found, kept = newest(rows.events, rows.questions), rows.columns.kept
    missing = (found < 0) | expired(view, rows, found)
    return np.where(missing, -1, found if kept is None or not len(kept) else kept[found])


def _windowed_values(
    view: View,
    features: Sequence[str],
    files: SourceFiles,
    entity_rows: EntityRows,
    engine: Engine,
    knowledge: bool,
    partition: KeyPartition | None,
) -> dict[str, pa.Array]:
    chosen = [a for a in view.aggregations if a.name in set(features)]
    columns = {a.column: view.source.column(a.column) for a in chosen if a.column}
    rows = read_source(
        view, files, list(columns.values()), entity_rows, engine, knowledge=knowledge, partition=partition
    )
    events = replace(
        rows.events, columns={name: event_values(rows.columns[column]) for name, column in columns.items()}
    )
    values = aggregate(events, rows.questions, chosen, view.hop)
    withheld = expired(view, rows, newest(events, rows.questions)) if view.ttl else None
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        typed = pool.map(lambda name: _typed(view, name, values.pop(name), withheld), features)
        return dict(zip(features, typed, strict=True))


def expired(view: View, rows: SourceRows, found: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the newest known row (``found``, positions) is older than the view's ttl; a row exactly as old as the ttl is fresh."""
    if not view.ttl or not len(rows.events.ts):
        return np.zeros(len(found), dtype=bool)
    return (found >= 0) & (rows.questions.t - rows.events.ts[found] > view.ttl)


def _typed(view: View, name: str, values: NDArray[Any], withheld: NDArray[np.bool_] | None) -> pa.Array:
    dtype = view.feature(name).dtype
    if values.dtype != np.float64:
        array = pa.array(values, mask=withheld)
    else:
        missing = np.isnan(values) if withheld is None else np.isnan(values) | withheld
        array = pa.array(values, mask=missing if missing.any() else None)
    if dtype == "unixtimestamp":
        array = array.cast(pa.int64())
    return conform(array, dtype, f"feature {view.name}:{name}")


SEAMS = {
    "newest": "the newest known row",
    "expired": "when a ttl has passed",
    "event_values": "which values are missing",
}
"""Functions that each decide one rule alone; the laws are tested by replacing them."""
