"""Values of a plain view at the moments that entity rows ask about."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from asof.offline.columns import conform
from asof.offline.gathering import Picks
from asof.offline.pages import ordinary_pages
from asof.offline.source_rows import Asked, Loaded, Part, load
from asof.windows import newest

if TYPE_CHECKING:
    from asof.contract import View
    from asof.offline.engine import Engine
    from asof.offline.sources import Files


GATHERERS = 2
"""Threads that gather the columns of one view; more wait for memory, not for each other."""


@ordinary_pages()
def plain_values(
    view: View,
    wanted: Sequence[str],
    files: Files,
    asked: Asked,
    engine: Engine,
    knowledge: bool,
    part: Part | None,
) -> dict[str, pa.Array]:
    """The features ``wanted`` of the newest known row, one value per row that asks, in its order and in the declared types."""
    columns = {name: view.source.column(name) for name in wanted}
    loaded = load(view, files, list(columns.values()), asked, engine, knowledge=knowledge, part=part)
    picks, stored = _picks(view, loaded), loaded.columns
    del loaded

    def value(name: str) -> pa.Array:
        return conform(taken[columns[name]], view.feature(name).dtype, f"feature {view.name}:{name}")

    taken: dict[str, pa.Array] = {}
    with ThreadPoolExecutor(max_workers=GATHERERS) as pool:
        for block in stored.blocks(list(dict.fromkeys(columns.values()))):
            taken |= dict(zip(block.column_names, pool.map(picks.take, block.columns), strict=True))
            del block
        return dict(zip(columns, pool.map(value, columns), strict=True))


def _picks(view: View, loaded: Loaded) -> Picks:
    """The stored rows that the questions want."""
    found, kept = newest(loaded.events, loaded.questions), loaded.columns.kept
    missing = (found < 0) | too_old(view, loaded, found)
    place = found if kept is None or not len(kept) else kept[found]
    return Picks(np.where(missing, -1, place))


def too_old(view: View, loaded: Loaded, found: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the newest known row is older than the view's ttl; exactly as old is not."""
    if not view.ttl or not len(loaded.events.ts):
        return np.zeros(len(found), dtype=bool)
    return (found >= 0) & (loaded.questions.t - loaded.events.ts[found] > view.ttl)
