"""Values of chosen rows: as Arrow takes them, whatever the type and however the column is cut into chunks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from asof.offline.view_values import Take
from tests.offline.test_parquet_columns import COLUMNS, ROWS

PLACES = {
    "all": np.arange(ROWS),
    "some": np.array([3, 3, ROWS - 1, 0, 40, 17, 40]),
    "missing": np.array([-1, 89, -1, 0, 45, -1]),
    "nothing known": np.full(5, -1),
    "none": np.arange(0),
}


def chunked(column: pa.Array, *ends: int) -> pa.ChunkedArray:
    """``column`` in chunks, some of which do not start at the start of their buffers."""
    bounds = [0, *ends, len(column)]
    return pa.chunked_array([column.slice(a, b - a) for a, b in pairwise(bounds)])


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("ends", [(), (1,), (10, 10, 45)], ids=["whole", "two", "many"])
def test_values_are_those_that_arrow_takes(places: str, ends: tuple[int, ...]) -> None:
    """Nulls, NaN and the type stay; a row without a place has no value."""
    place = PLACES[places]
    take, arrow = Take(place), pa.array(place, mask=place < 0)
    for name, column in COLUMNS.items():
        found = take.values(chunked(column, *ends))

        found.validate(full=True)
        assert found.type == column.type, name
        assert str(found.to_pylist()) == str(column.take(arrow).to_pylist()), name


def test_a_column_without_rows_has_no_values() -> None:
    """Nothing can be known of no rows."""
    for column in COLUMNS.values():
        assert Take(np.full(3, -1)).values(chunked(column.slice(0, 0))).to_pylist() == [None] * 3
