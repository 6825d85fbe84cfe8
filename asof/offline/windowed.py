"""Values of a windowed view at the moments that entity rows ask about."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.offline.columns import conform, event_values
from asof.offline.plain import GATHERERS, too_old
from asof.offline.source_rows import Asked, Part, load
from asof.windows import aggregate, newest

if TYPE_CHECKING:
    from asof.contract import View
    from asof.offline.engine import Engine
    from asof.offline.sources import Files


def windowed_values(
    view: View,
    wanted: Sequence[str],
    files: Files,
    asked: Asked,
    engine: Engine,
    knowledge: bool,
    part: Part | None,
) -> dict[str, pa.Array]:
    """The aggregations ``wanted``, one value per row that asks, in its order and in the declared types."""
    chosen = [a for a in view.aggregations if a.name in set(wanted)]
    columns = {a.column: view.source.column(a.column) for a in chosen if a.column}
    loaded = load(view, files, list(columns.values()), asked, engine, knowledge=knowledge, part=part)
    values = {name: event_values(loaded.columns[column]) for name, column in columns.items()}
    events = replace(loaded.events, columns=values)
    answers = aggregate(events, loaded.questions, chosen, view.hop)
    withheld = too_old(view, loaded, newest(events, loaded.questions)) if view.ttl else None
    with ThreadPoolExecutor(max_workers=GATHERERS) as pool:
        typed = pool.map(lambda name: _typed(view, name, answers.pop(name), withheld), wanted)
        return dict(zip(wanted, typed, strict=True))


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
