"""Values of one view at the moments that entity rows ask about."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.offline.columns import conform, event_values
from asof.offline.loading import Asked, Loaded, Part, load
from asof.windows import Events, aggregate, newest

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from asof.contract import View
    from asof.offline.sources import Files


GATHERERS = 2
"""Threads that gather the columns of one view; more wait for memory, not for each other."""


def view_values(
    view: View,
    wanted: Sequence[str],
    files: Files,
    asked: Asked,
    engine: DuckDBPyConnection,
    *,
    knowledge: bool,
    part: Part | None = None,
) -> dict[str, pa.Array]:
    """The features ``wanted`` of ``view``, one value per row that asks, in its order and in the declared types.

    Raises:
        SchemaError: The entity rows do not have the view's keys.
        SourceError: The source cannot be read, or holds a value that does not fit its declaration.
    """
    find = _windowed if view.windowed else _plain
    return find(view, wanted, files, asked, engine, knowledge, part)


def _plain(
    view: View,
    wanted: Sequence[str],
    files: Files,
    asked: Asked,
    engine: DuckDBPyConnection,
    knowledge: bool,
    part: Part | None,
) -> dict[str, pa.Array]:
    columns = {name: view.source.column(name) for name in wanted}
    loaded = load(view, files, list(columns.values()), asked, engine, knowledge=knowledge, part=part)
    found = newest(loaded.events, loaded.questions)
    place = pa.array(found, mask=(found < 0) | _too_old(view, loaded, found))

    def value(name: str) -> pa.Array:
        found = _take(loaded.columns[columns[name]], place)
        return conform(found, view.feature(name).dtype, f"feature {view.name}:{name}")

    with ThreadPoolExecutor(max_workers=GATHERERS) as pool:
        return dict(zip(columns, pool.map(value, columns), strict=True))


def _take(column: pa.ChunkedArray, place: pa.Array) -> pa.Array:
    return column.combine_chunks().take(place)


def _too_old(view: View, loaded: Loaded, found: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the newest known row is older than the view's ttl; exactly as old is not."""
    if not view.ttl or not len(loaded.events.ts):
        return np.zeros(len(found), dtype=bool)
    return (found >= 0) & (loaded.questions.t - loaded.events.ts[found] > view.ttl)


def _windowed(
    view: View,
    wanted: Sequence[str],
    files: Files,
    asked: Asked,
    engine: DuckDBPyConnection,
    knowledge: bool,
    part: Part | None,
) -> dict[str, pa.Array]:
    chosen = [a for a in view.aggregations if a.name in set(wanted)]
    columns = {a.column: view.source.column(a.column) for a in chosen if a.column}
    loaded = load(view, files, list(columns.values()), asked, engine, knowledge=knowledge, part=part)
    values = {name: event_values(loaded.columns[column]) for name, column in columns.items()}
    events = Events(loaded.events.key, loaded.events.ts, loaded.events.arrival, loaded.events.kt, values)
    answers = aggregate(events, loaded.questions, chosen, view.hop)
    withheld = _too_old(view, loaded, newest(events, loaded.questions)) if view.ttl else None
    return {name: _typed(view, name, answers[name], withheld) for name in wanted}


def _typed(view: View, name: str, values: NDArray[Any], withheld: NDArray[np.bool_] | None) -> pa.Array:
    dtype = view.feature(name).dtype
    if values.dtype == object:
        array = pa.array(values, mask=withheld)
    else:
        missing = np.isnan(values) if withheld is None else np.isnan(values) | withheld
        array = pa.array(values, mask=missing)
    if dtype == "unixtimestamp":
        array = array.cast(pa.int64())
    return conform(array, dtype, f"feature {view.name}:{name}")
