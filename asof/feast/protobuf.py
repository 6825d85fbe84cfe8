"""Conversion between Feast's protobuf messages and Python or Arrow columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import NULL_TIMESTAMP_INT_VALUE, feast_value_type_to_python_type, python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp

from asof.contract import View
from asof.contract.arrow_types import COLUMN_TYPES
from asof.instants import SECOND, from_micros, to_micros
from asof.online.codec import variable_width
from asof.online.codec.layouts import block_of
from asof.online.codec.rows import ENCODED
from asof.online.read_plan import ReadPlan
from asof.online.vectors import NOT_FOUND, NOT_KEPT, Status, Vectors

STATUSES = {
    Status.PRESENT: FieldStatus.PRESENT,
    Status.NULL: FieldStatus.NULL_VALUE,
    Status.OUTSIDE_MAX_AGE: FieldStatus.OUTSIDE_MAX_AGE,
    Status.NOT_FOUND: FieldStatus.NOT_FOUND,
    Status.NOT_KEPT: FieldStatus.INVALID,
}
_STATUS_LIST = [STATUSES[s] for s in Status]
SLOTS = {
    "int32": "int32_val", "int64": "int64_val", "float32": "float_val", "float64": "double_val", "bool": "bool_val",
    "string": "string_val", "bytes": "bytes_val",
}  # fmt: skip
"""The protobuf field of each type whose values protobuf returns as the Python values that went in."""
_PYTHON: dict[str, Callable[[float], Any]] = {"int32": int, "int64": int, "bool": bool}
_SCALARS = frozenset({*SLOTS.values(), "json_val"})
_NULL = Value()


def python_value(value: Value) -> Any:
    """The Python value of a protobuf value; None for a null."""
    slot = value.WhichOneof("val")
    if slot is None or slot == "null_val":
        return None
    if slot == "unix_timestamp_val":
        seconds = value.unix_timestamp_val
        return None if seconds == NULL_TIMESTAMP_INT_VALUE else from_micros(seconds * SECOND)
    return getattr(value, slot) if slot in _SCALARS else feast_value_type_to_python_type(value)


def proto_values(dtype: str, feast_type: Any, values: Sequence[Any]) -> list[Value]:
    """Protobuf values of one feature; None becomes a null."""
    if (slot := SLOTS.get(dtype)) is not None:
        return [_NULL if v is None else Value(**{slot: v}) for v in values]
    if dtype == "unixtimestamp":
        return [_NULL if v is None else Value(unix_timestamp_val=to_micros(v) // SECOND) for v in values]
    present = [v for v in values if v is not None]
    converted = iter(python_values_to_proto_values(present, feast_type.to_value_type()) if present else ())
    return [_NULL if v is None else next(converted) for v in values]


def keys_of_request(plan: ReadPlan, given: Mapping[str, Sequence[Value]]) -> tuple[dict[str, list[Any]], int]:
    """Python key columns from protobuf ones, and the number of rows."""
    needed = {k.request for w in plan.wanted for k in w.view.join_keys}
    rows = len(next(iter(given.values()), ()))
    return {name: [python_value(v) for v in values] for name, values in given.items() if name in needed}, rows


def keys_of_entities(view: View, entities: Sequence[EntityKey]) -> dict[str, list[Any]]:
    """Python key columns, under the view's request names, from entity keys."""
    columns: dict[str, list[Any]] = {k.request: [] for k in view.join_keys}
    names = {k.column: k.request for k in view.join_keys}
    for entity in entities:
        for column, value in zip(entity.join_keys, entity.entity_values, strict=True):
            if column in names:
                columns[names[column]].append(python_value(value))
    return columns


def table_of(view: View, data: Sequence[Any]) -> pa.Table:
    """The Arrow table that a writer takes, from the rows that Feast passes to an online store."""
    keys = keys_of_entities(view, [entity for entity, _, _, _ in data])
    columns: dict[str, Any] = {k.column: pa.array(keys[k.request], COLUMN_TYPES.get(k.dtype)) for k in view.join_keys}
    for feature in view.features:
        listed = [python_value(values[feature.name]) if feature.name in values else None for _, values, _, _ in data]
        columns[feature.name] = _array(feature.dtype, listed)
    mapping, source = view.source.field_mapping, view.source
    moments = pa.array([to_micros(ts) for _, _, ts, _ in data], pa.int64())
    columns[mapping.get(source.timestamp_field, source.timestamp_field)] = moments.cast(pa.timestamp("us", "UTC"))
    if source.created_timestamp_column:
        created = pa.array([None if c is None else to_micros(c) for _, _, _, c in data], pa.int64())
        name = mapping.get(source.created_timestamp_column, source.created_timestamp_column)
        columns[name] = created.cast(pa.timestamp("us", "UTC"))
    return pa.table(columns)


def _array(dtype: str, values: list[Any]) -> pa.Array:
    if block_of(dtype) is not None or dtype in COLUMN_TYPES:
        return pa.array(values, COLUMN_TYPES[dtype])
    return pa.array([None if v is None else variable_width.encode(dtype, v) for v in values], ENCODED)


def python_values(vectors: Vectors, alias: str, name: str, dtype: str) -> list[Any]:
    """The n values of one feature as Python values, None for missing."""
    if (alias, name) in vectors.objects:
        return vectors.objects[alias, name]
    listed = vectors.values[:, vectors.columns.index((alias, name))].tolist()
    return numbers(listed, dtype, complete=not any(v != v for v in listed))


def numbers(values: list[float], dtype: str, *, complete: bool) -> list[Any]:
    """Floats as Python values of a numeric type, None for NaN; ``complete`` says that there is no NaN."""
    convert = _PYTHON.get(dtype)
    if complete:
        return values if convert is None else list(map(convert, values))
    return [None if v != v else v if convert is None else convert(v) for v in values]


def found_rows(
    table: FeatureView, names: Sequence[str], vectors: Vectors
) -> list[tuple[datetime | None, dict[str, Value] | None]]:
    """Each row's event time and values, as Feast's ``online_read`` returns them; (None, None) for a key without a row."""
    types, alias = {f.name: f.dtype for f in table.features}, vectors.views[0]
    kinds = {n: str(types[n]).lower() for n in names}
    columns = [proto_values(kinds[n], types[n], python_values(vectors, alias, n, kinds[n])) for n in names]
    found: list[tuple[datetime | None, dict[str, Value] | None]] = []
    for row, ts in enumerate(vectors.event_times[:, 0].tolist()):
        known = len(names) and vectors.statuses[row, 0] not in (NOT_FOUND, NOT_KEPT)
        values = {n: column[row] for n, column in zip(names, columns, strict=True)}
        found.append((from_micros(ts).astimezone(UTC), values) if known else (None, None))
    return found


def fill(
    response: GetOnlineFeaturesResponse,
    table: FeatureView,
    names: Sequence[str],
    vectors: Vectors,
    full_names: bool,
    versions: bool,
) -> dict[str, list[Any] | None]:
    """Append one view's features to Feast's response: values, statuses and event times, in the order of ``names``.

    Returns:
        Each feature under its name in the response, with its Python values where protobuf holds exactly these.
    """
    alias = table.projection.name_to_use()
    types = {f.name: f.dtype for f in table.features}
    if versions and table.projection.name not in [v.name for v in response.metadata.feature_view_metadata]:
        metadata = response.metadata.feature_view_metadata.add()
        metadata.name = table.projection.name_alias or table.projection.name
        metadata.version = getattr(table, "current_version_number", 0) or 0
    times = _timestamps(vectors.event_times[:, vectors.views.index(alias)].tolist())
    filled: dict[str, list[Any] | None] = {}
    for name in names:
        statuses = vectors.statuses[:, vectors.columns.index((alias, name))].tolist()
        dtype = str(types[name]).lower()
        column = python_values(vectors, alias, name, dtype)
        values = proto_values(dtype, types[name], column)
        response.results.add(values=values, statuses=[_STATUS_LIST[s] for s in statuses], event_timestamps=times)
        filled[f"{alias}__{name}" if full_names else name] = column if dtype in SLOTS else None
    response.metadata.feature_names.val.extend(filled)
    return filled


def _timestamps(micros: Sequence[int]) -> list[Timestamp]:
    return [Timestamp(seconds=m // SECOND, nanos=m % SECOND * 1000) if m >= 0 else Timestamp() for m in micros]
