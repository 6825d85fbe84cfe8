"""Frozen-edge histograms: counts of a column in cells that are fixed at training time.

Two samples can be compared exactly, and counted in parts on different days and machines, if their cells are the same. So the
cells are fixed once, from the training rows (:func:`build`), and every later sample is counted into them (:func:`count`);
counts of parts add up exactly (:func:`merge`). Everything is plain JSON data.

A numeric column gets about ``bins`` cells of equal share. Real columns have many ties (zeros, small counts, capped values), so a
value that alone holds at least one share gets its own cell, and a column with no more than ``bins`` distinct values gets one
cell for each; the gaps between such points are cells too, empty at training, so that a value never seen before is noticed.
Points and ends are widened by 1e-9 relative, the tolerance of asof's parity law, so that rounding moves nothing across an edge;
other edges lie half-way between two neighbouring values. What lies outside the training range is counted below and above.
A categorical column has one cell for each of the most frequent values and one for all others.

Shapes: ``{"format": 1, "rows": n, "columns": {name: column}}`` where a numeric column is ``{"kind": "numeric", "edges": [k + 1 floats,
rising], "points": [k values or null], "counts": [k], "below", "above", "missing"}`` and a categorical one is
``{"kind": "categorical", "categories": [k texts], "counts": [k], "other", "missing"}``. Cell i holds edges[i] <= value < edges[i + 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from asof.contract import NUMERIC_TYPES, Contract
from asof.errors import BundleError, SchemaError
from asof.instants import SECOND, format_moment

FORMAT = 1
"""Version of the JSON layout."""

BINS = 20
"""Cells of equal share for a numeric column: 5 % of the training rows each."""

LEAST_CELLS = 5
"""Least number of cells for values without a cell of their own: where most rows are zero, the others matter."""

CATEGORIES = 50
"""Values of a categorical column that get their own cell."""

TOLERANCE = 1e-9
"""Relative distance within which two floats are the same value (the parity law's)."""

SCORE = "score"
"""Name of the one column in the histogram of the model's scores."""

Kind = Literal["numeric", "categorical"]
Histogram = dict[str, Any]
Values: TypeAlias = Sequence[Any] | npt.NDArray[Any] | pa.Array | pa.ChunkedArray

_EXTRA = {"numeric": ("below", "above", "missing"), "categorical": ("other", "missing")}


def kinds(contract: Contract) -> dict[str, Kind]:
    """Feature -> how it is counted: numbers, moments (microseconds), lists and bytes (their length) as numeric, others by value."""
    return {f.name: _kind(f.dtype) for f in contract.features}


def build(
    columns: Mapping[str, Values],
    kinds: Mapping[str, Kind] | None = None,
    *,
    bins: int = BINS,
    categories: int = CATEGORIES,
) -> Histogram:
    """Cells frozen from ``columns`` and their counts.

    Args:
        columns: Name -> n values (array, list or Arrow); None and NaN are missing.
        kinds: Name -> kind; where a name is absent, the values decide.
        bins: Cells of equal share for a numeric column.
        categories: Values of a categorical column that get their own cell.

    Raises:
        SchemaError: The columns differ in length, or values do not fit their kind.
    """
    arrays = {name: arrow(name, values) for name, values in columns.items()}
    chosen = {name: (kinds or {}).get(name) or _observed(array) for name, array in arrays.items()}
    built = {
        name: _build_numeric(_numbers(name, array), bins)
        if chosen[name] == "numeric"
        else _build_categorical(_texts(array), categories)
        for name, array in arrays.items()
    }
    return {"format": FORMAT, "rows": _rows(arrays), "columns": built}


def count(frozen: Histogram, columns: Mapping[str, Values]) -> Histogram:
    """``columns`` counted into the cells of ``frozen``; columns that it does not know are left out.

    Raises:
        BundleError: ``frozen`` has another layout.
        SchemaError: A column is missing, the columns differ in length, or values do not fit their kind.
    """
    return tally(frozen, codes(frozen, columns))


def codes(frozen: Histogram, columns: Mapping[str, Values]) -> dict[str, npt.NDArray[np.int32]]:
    """For each column of ``frozen``, the position in :func:`cells` of every value: int32[n].

    Raises:
        BundleError: ``frozen`` has another layout.
        SchemaError: A column is missing, the columns differ in length, or values do not fit their kind.
    """
    _check(frozen)
    if absent := [name for name in frozen["columns"] if name not in columns]:
        raise SchemaError(f"got no column {absent[0]!r}, expected all of {sorted(frozen['columns'])}")
    arrays = {name: arrow(name, columns[name]) for name in frozen["columns"]}
    _rows(arrays)
    return {name: _codes(name, column, arrays[name]) for name, column in frozen["columns"].items()}


def tally(frozen: Histogram, coded: Mapping[str, npt.NDArray[np.int32]]) -> Histogram:
    """The counts of what :func:`codes` returned."""
    counted = {
        name: _with_cells(column, np.bincount(coded[name], minlength=len(cells(column))))
        for name, column in frozen["columns"].items()
    }
    return {"format": FORMAT, "rows": len(next(iter(coded.values()), ())), "columns": counted}


def empty(frozen: Histogram) -> Histogram:
    """The cells of ``frozen`` with nothing counted: the start of a :func:`merge`."""
    _check(frozen)
    zero = {
        name: _with_cells(column, np.zeros(len(cells(column)), np.int64)) for name, column in frozen["columns"].items()
    }
    return {"format": FORMAT, "rows": 0, "columns": zero}


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """The counts of all ``histograms`` together, exactly; they must have the same cells.

    Raises:
        BundleError: A histogram has another layout or other cells.
        SchemaError: There is none.
    """
    parts = list(histograms)
    if not parts:
        raise SchemaError("got no histogram to merge, expected at least one")
    for part in parts:
        _check(part)
        if _layout(part) != _layout(parts[0]):
            raise BundleError("got histograms with different cells, expected counts under the same reference")
    merged = {
        name: _with_cells(column, np.sum([cells(part["columns"][name]) for part in parts], axis=0))
        for name, column in parts[0]["columns"].items()
    }
    return {"format": FORMAT, "rows": sum(part["rows"] for part in parts), "columns": merged}


def cells(column: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """All counts of a column, int64[k + 3] (numeric) or int64[k + 2]: its cells, then below and above or other, then missing."""
    return np.array([*column["counts"], *(column[name] for name in _EXTRA[column["kind"]])], np.int64)


def labels(column: Mapping[str, Any]) -> list[str]:
    """A readable label for every entry of :func:`cells`."""
    if column["kind"] == "categorical":
        return [*column["categories"], "(other)", "(missing)"]
    if not column["edges"]:
        return ["below", "above", "(missing)"]
    shown = _SHOWN.get(column.get("dtype", ""))
    edges = [shown(edge) if shown else _text(edge, column["edges"]) for edge in column["edges"]]
    texts = [
        (shown(point) if shown else f"{point:.6g}") if point is not None else f"{low} to {high}"
        for point, low, high in zip(column["points"], edges, edges[1:], strict=False)
    ]
    return [*texts, f"< {edges[0]}", f">= {edges[-1]}", "(missing)"]


def _moment(value: float) -> str:
    try:
        return format_moment(round(value) // SECOND * SECOND)
    except (OverflowError, ValueError):  # beyond the years 1 to 9999
        return f"{value:.6g}"


def _boolean(value: float) -> str:
    return "true" if value > 0.5 else "false"


_SHOWN: dict[str, Callable[[float], str]] = {"unixtimestamp": _moment, "bool": _boolean}
"""Types whose numbers are shown as something else."""


def _kind(dtype: str) -> Kind:
    measured = dtype in NUMERIC_TYPES or dtype.startswith(("unixtimestamp", "array", "set", "bytes"))
    return "numeric" if measured else "categorical"


def _text(edge: float, edges: Sequence[float]) -> str:
    """Four digits; the slack around a point at zero is not worth showing."""
    scale = max(abs(edges[0]), abs(edges[-1]))
    return f"{edge:.4g}" if abs(edge) > 2 * TOLERANCE * scale else "0"


def _check(histogram: Histogram) -> None:
    if histogram.get("format") != FORMAT:
        raise BundleError(
            f"the histogram has layout {histogram.get('format')}, expected {FORMAT}; train again with this asof"
        )


def _layout(histogram: Histogram) -> dict[str, Any]:
    return {
        name: (column["kind"], column.get("edges"), column.get("categories"))
        for name, column in histogram["columns"].items()
    }


def _rows(arrays: Mapping[str, pa.Array]) -> int:
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) > 1:
        raise SchemaError(f"got columns of {sorted(lengths)} values, expected the same number in each")
    return lengths.pop() if lengths else 0


def arrow(name: str, values: Values) -> pa.Array:
    """``values`` as one Arrow array; NaN counts as missing.

    Raises:
        SchemaError: They are of several types.
    """
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError) as error:
        raise SchemaError(f"column {name!r} mixes types, expected values of one type") from error


def _observed(array: pa.Array) -> Kind:
    if pa.types.is_dictionary(array.type):
        return "categorical"
    textual = (
        pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type)
    )
    nested = pa.types.is_struct(array.type) or pa.types.is_map(array.type)
    return "categorical" if textual or nested else "numeric"


def _numbers(name: str, array: pa.Array) -> npt.NDArray[np.float64]:
    """float64[n], NaN missing; moments in microseconds, lists and bytes by their length."""
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        array = pc.list_value_length(array)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        array = pc.binary_length(array)
    elif pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    try:
        # Arrow refuses integers beyond 2**53 when it casts safely; a histogram may round them.
        return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    except (pa.ArrowException, ValueError) as error:
        raise SchemaError(f"column {name!r} holds {kind}, expected numbers") from error


def _texts(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        return pc.if_else(array.is_valid(), pa.scalar("(value)"), pa.scalar(None, pa.string()))


def _build_numeric(values: npt.NDArray[np.float64], bins: int) -> dict[str, Any]:
    finite = np.sort(values[np.isfinite(values)])
    edges, points = _edges(finite, bins) if len(finite) else (np.empty(0), [])
    width = max(len(edges), 1) - 1
    found = np.bincount(_numeric_codes(edges, values), minlength=width + 3)
    return _with_cells({"kind": "numeric", "edges": edges.tolist(), "points": points}, found)


def _numeric_codes(edges: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    width = max(len(edges), 1) - 1
    # searchsorted says 0 for below, 1 to width for the cells, width + 1 for above and for NaN.
    place = np.concatenate([[width], np.arange(width), [width + 1]]).astype(np.int32)
    found = place[np.searchsorted(edges, values, side="right")]
    found[np.isnan(values)] = width + 2
    return found


def _edges(ordered: npt.NDArray[np.float64], bins: int) -> tuple[npt.NDArray[np.float64], list[float | None]]:
    """Rising edges and, for each cell between them, the one value that it stands for or None."""
    first, last, weight = _distinct(ordered)
    heavy = weight * bins >= len(ordered) if len(first) > bins else np.ones(len(first), bool)
    low, high = first - _slack(first, ordered), last + _slack(last, ordered)
    cuts = _share_cuts(first, last, weight, heavy, bins)
    edges = np.unique(np.concatenate([[low[0], high[-1]], low[heavy], high[heavy], cuts]))
    point_of = dict(zip(low[heavy].tolist(), first[heavy].tolist(), strict=True))
    return edges, [point_of.get(edge) for edge in edges[:-1].tolist()]


def _distinct(
    ordered: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """First and last member and size of each run of values that are the same within four tolerances."""
    apart = np.diff(ordered) > 4 * _slack(ordered[1:], ordered)
    starts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    ends = np.concatenate([starts[1:], [len(ordered)]])
    return ordered[starts], ordered[ends - 1], ends - starts


def _slack(values: npt.NDArray[np.float64], ordered: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far rounding may move ``values``; near zero, a thousandth of the column's scale counts as their size."""
    scale = max(abs(ordered[0]), abs(ordered[-1]))
    return np.asarray(np.maximum(TOLERANCE * np.maximum(np.abs(values), 1e-3 * scale), np.finfo(np.float64).tiny))


def _share_cuts(
    first: npt.NDArray[np.float64],
    last: npt.NDArray[np.float64],
    weight: npt.NDArray[np.int64],
    heavy: npt.NDArray[np.bool_],
    bins: int,
) -> npt.NDArray[np.float64]:
    """Edges that cut the values without a cell of their own into equal shares; a cut next to such a cell is not needed."""
    light = np.flatnonzero(~heavy)
    total = int(weight[light].sum())
    if not total:
        return np.empty(0)
    parts = max(LEAST_CELLS, round(bins * total / int(weight.sum())))
    before = np.concatenate([[0], np.cumsum(weight[light])[:-1]])
    starts = light[1:][np.diff(before * parts // total) > 0]
    starts = starts[~heavy[starts - 1]]
    return np.asarray(last[starts - 1] / 2 + first[starts] / 2)


def _build_categorical(texts: pa.Array, categories: int) -> dict[str, Any]:
    counted = _value_counts(texts)
    kept = sorted(counted, key=lambda text: (-counted[text], text))[:categories]
    found = np.bincount(_categorical_codes(sorted(kept), texts), minlength=len(kept) + 2)
    return _with_cells({"kind": "categorical", "categories": sorted(kept)}, found)


def _categorical_codes(categories: Sequence[str], texts: pa.Array) -> npt.NDArray[np.int32]:
    width = len(categories)
    known = pc.index_in(texts, value_set=pa.array(categories, pa.string())).fill_null(width).to_numpy()
    return np.where(texts.is_valid().to_numpy(zero_copy_only=False), known, width + 1).astype(np.int32)


def _value_counts(texts: pa.Array) -> dict[str, int]:
    counted = pc.value_counts(texts.drop_null())
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _codes(name: str, column: Mapping[str, Any], array: pa.Array) -> npt.NDArray[np.int32]:
    if column["kind"] == "categorical":
        return _categorical_codes(column["categories"], _texts(array))
    return _numeric_codes(np.asarray(column["edges"], np.float64), _numbers(name, array))


def _with_cells(column: Mapping[str, Any], found: npt.NDArray[np.int64]) -> dict[str, Any]:
    extra = _EXTRA[column["kind"]]
    head, tail = found[: -len(extra)].tolist(), found[-len(extra) :].tolist()
    return {**column, "counts": head, **dict(zip(extra, tail, strict=True))}
