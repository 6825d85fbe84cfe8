"""whylogs profiles of Arrow data: small, mergeable summaries of columns.

asof keeps whylogs profiles for exploration; verdicts on drift come from :mod:`asof.statistics.histograms`, because the drift tests
of whylogs are unsound at scale. This module deals with four properties of whylogs 1.6:

- its type mapper uses names that numpy 2 removed, and fails on strings and moments: types are stated, from the contract;
- tracking row by row costs a millisecond a row: only whole batches are tracked;
- a profile that two threads write silently loses counts: each call of :func:`profile` makes its own profile, and profiles are merged
  (:func:`merge`);
- it reports usage over the network unless this is switched off before its import: it is switched off.

Numbers are profiled as they are, moments as microseconds, booleans as 0 and 1, lists and bytes by their length, others as text. A view is
whylogs' own protobuf format, so any whylogs reads it; nothing is pickled. whylogs and pandas are imported on use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from asof.atomic_file import replacing
from asof.contract import Contract
from asof.errors import SchemaError, SourceError
from asof.instants import from_micros

if TYPE_CHECKING:
    import pandas as pd
    from whylogs.core import DatasetProfileView

BATCH = 131_072
"""Rows that whylogs gets at a time."""

Batches: TypeAlias = pa.Table | pa.RecordBatch | Iterable[pa.Table | pa.RecordBatch]

_INTEGERS = frozenset({"int32", "int64", "bool", "unixtimestamp"})
_FLOATS = frozenset({"float32", "float64"})


def profile(
    data: Batches,
    contract: Contract,
    *,
    extra: Mapping[str, str] | None = None,
    moment: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A serialized whylogs view of the contract's features.

    Args:
        data: A table, or batches of one; columns that are not asked for are left out.
        contract: Names and types of the features.
        extra: More columns to profile, name -> type as a contract writes it ("float64" for a score).
        moment: The moment that the data belongs to, in microseconds; now by default. whylogs keeps milliseconds.
        metadata: Texts to keep in the view, such as the model's version.

    Raises:
        SchemaError: A column is missing.
    """
    types = {**{f.name: f.dtype for f in contract.features}, **(extra or {})}
    tracked = _whylogs().DatasetProfile(
        schema=_schema(types),
        dataset_timestamp=from_micros(moment) if moment is not None else None,
        metadata=dict(metadata or {}),
    )
    for batch in _batches(data):
        tracked.track(pandas=_frame(batch, types))
    return bytes(tracked.view().serialize())


def write(path: Path, view: bytes) -> None:
    """``view`` as the file ``path``, whole or not at all."""
    with replacing(path) as work:
        work.write_bytes(view)


def read(source: Path | bytes) -> DatasetProfileView:
    """The whylogs view in a file or in bytes.

    Raises:
        SourceError: It is no whylogs profile.
    """
    core = _whylogs()
    try:
        return core.DatasetProfileView.deserialize(source if isinstance(source, bytes) else source.read_bytes())
    except Exception as error:  # whylogs raises whatever its protobuf parser meets
        where = "the profile" if isinstance(source, bytes) else str(source)
        raise SourceError(
            f"{where} is no whylogs profile ({type(error).__name__}); write it again with `asof profile`"
        ) from error


def merge(views: Iterable[bytes]) -> bytes:
    """One view over everything that ``views`` saw. Counts add up exactly, sketches within their error.

    Raises:
        SourceError: One of them is no whylogs profile, or there is none.
    """
    parts = [read(view) for view in views]
    if not parts:
        raise SourceError("got no profile to merge, expected at least one")
    return bytes(reduce(lambda left, right: left.merge(right), parts).serialize())


def tagged(view: bytes, metadata: Mapping[str, str]) -> bytes:
    """``view`` with more words in its metadata."""
    found = read(view)
    found.metadata.update(metadata)
    return bytes(found.serialize())


@lru_cache(maxsize=1)
def _whylogs() -> Any:
    os.environ.setdefault("WHYLOGS_NO_ANALYTICS", "True")
    from whylogs import core

    return core


def _schema(types: Mapping[str, str]) -> Any:
    """A whylogs schema whose types are stated, never guessed from numpy's names."""
    from whylogs.core.datatypes import AnyType, DataType, Fractional, Integral, String, TypeMapper
    from whylogs.core.resolvers import StandardResolver

    known = {int: Integral, float: Fractional, str: String}

    class StatedTypes(TypeMapper):  # type: ignore[misc]
        def __call__(self, dtype_or_type: Any) -> DataType[Any]:
            return known.get(dtype_or_type, AnyType)()

    stated = {name: _python_type(dtype) for name, dtype in types.items()}
    return _whylogs().DatasetSchema(types=stated, type_mapper=StatedTypes(), resolvers=StandardResolver())


def _python_type(dtype: str) -> type:
    if dtype in _FLOATS:
        return float
    return int if dtype in _INTEGERS or _measured(dtype) else str


def _measured(dtype: str) -> bool:
    return dtype.startswith(("array", "set", "bytes"))


def _batches(data: Batches) -> Iterable[pa.RecordBatch]:
    for part in [data] if isinstance(data, pa.Table | pa.RecordBatch) else data:
        table = part if isinstance(part, pa.Table) else pa.Table.from_batches([part])
        yield from (batch for batch in table.to_batches(max_chunksize=BATCH) if batch.num_rows)


def _frame(batch: pa.RecordBatch, types: Mapping[str, str]) -> pd.DataFrame:
    import pandas as pd

    if absent := [name for name in types if name not in batch.schema.names]:
        raise SchemaError(f"got no column {absent[0]!r}, expected {sorted(types)}")
    return pd.DataFrame({name: _series(batch.column(name), dtype) for name, dtype in types.items()})


def _series(array: pa.Array, dtype: str) -> pd.Series[Any]:
    """A series of one of three dtypes, each of which whylogs takes without looking at single values."""
    import pandas as pd

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if dtype in _FLOATS:
        return pd.Series(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if _measured(dtype):
        nested = not pa.types.is_binary(array.type) and not pa.types.is_large_binary(array.type)
        array = pc.list_value_length(array) if nested else pc.binary_length(array)
    if _python_type(dtype) is int:
        if pa.types.is_timestamp(array.type):
            array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
        return array.cast(pa.int64(), safe=False).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return _texts(array).to_pandas(types_mapper={pa.string(): pd.StringDtype("python")}.get)


def _texts(array: pa.Array) -> pa.Array:
    try:
        return array.cast(pa.string())
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
