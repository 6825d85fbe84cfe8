"""Feast's responses to reads of online features.

A request for stored features of entities is answered by :class:`LazyResponse`, which holds columns and makes protobuf messages
only when ``proto`` is read. All other requests (on-demand features, views without entities) go through Feast's own code and are
answered by :class:`FilledResponse`. A request is compiled once, for as long as Feast's cached registry stays the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from feast import FeatureService, FeatureView, ValueType, metrics, utils
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values

from asof.feast import protobuf
from asof.instants import SECOND
from asof.online.vectors import PRESENT, Vectors

CACHED = 256
"""Compiled requests in the cache; a full cache is emptied."""
_LIMITS = {ValueType.INT32: 2**31, ValueType.INT64: 2**63}


@dataclass(frozen=True, slots=True)
class ResponseColumn:
    """A feature of a response: its name there, its view's alias, its name in the view, and its type."""

    label: str
    alias: str
    name: str
    dtype: str
    kind: Any


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """A request for stored features, compiled.

    Attributes:
        context: Feast's cached resolution of the request; a new registry gives a new object.
        grouped: (view, features), as Feast's online stores get them.
        columns: The features in the order of the response.
        feature_types: Feature types, as Feast's responses take them.
    """

    context: tuple[Any, ...]
    grouped: list[tuple[FeatureView, list[str]]]
    columns: tuple[ResponseColumn, ...]
    feature_types: Mapping[str, ValueType]

    def keys(self, rows: Any) -> dict[str, list[Any]] | None:
        """The key columns of a request; None where protobuf would change a value or Feast would refuse the rows."""
        columns, types, known = _columns(rows), self.context[3], self.context[4]
        if not columns or len({len(values) for values in columns.values()}) != 1:
            return None
        for name, values in columns.items():
            if name not in known or not _native(values, types.get(name, ValueType.UNKNOWN)):
                return None
        return columns


class RequestCache:
    """Compiled requests, cached by Feast's own resolution of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], FeatureRequest | None] = {}
        self._contexts: list[tuple[Any, ...]] = []

    def compiled(
        self, features: list[str] | FeatureService, registry: BaseRegistry, project: str, full_names: bool
    ) -> FeatureRequest | None:
        """The compiled request; None where it needs more than stored features of entities."""
        if metrics._config.online_features or getattr(features, "precompute_online", False):  # noqa: SLF001 - Feast's way to ask
            return None
        context = utils._get_cached_request_context(registry, project, features, full_names)  # noqa: SLF001 - as Feast does
        identity = (id(context), full_names)
        if identity not in self._known:
            if len(self._contexts) == CACHED:
                self._known, self._contexts = {}, []
            self._contexts.append(context)  # kept alive, so that its id is not used again
            self._known[identity] = _compiled(context, full_names)
        return self._known[identity]


class LazyResponse(OnlineResponse):
    """Feast's response to a request for stored features.

    Args:
        request: The request.
        keys: Key column -> n values.
        vectors: The values read.
        full_names: Whether features carry their view's name.
    """

    def __init__(
        self, request: FeatureRequest, keys: Mapping[str, list[Any]], vectors: Vectors, full_names: bool
    ) -> None:
        self._request, self._keys, self._vectors, self._full_names = request, keys, vectors, full_names
        self._feature_types = dict(request.feature_types)

    @cached_property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]
        """The response as a message, as Feast's servers send it."""
        response, types = GetOnlineFeaturesResponse(results=[]), self._request.context[3]
        keys = {n: python_values_to_proto_values(v, types.get(n, ValueType.UNKNOWN)) for n, v in self._keys.items()}
        utils._populate_result_rows_from_columnar(response, keys)  # noqa: SLF001 - as Feast does
        for table, names in self._request.grouped:
            protobuf.fill(response, table, names, self._vectors, self._full_names, versions=False)
        return response

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """As Feast's: feature -> n Python values."""
        columns = {name: [*values] for name, values in self._keys.items()} | self._values()
        if not include_event_timestamps:
            return columns
        seconds, times = {}, self._vectors.event_times.T.tolist()
        for alias, mine in zip(self._vectors.views, times, strict=True):
            seconds[alias] = [max(m // SECOND, 0) for m in mine]
        views = {c.label: c.alias for c in self._request.columns}
        result: dict[str, Any] = {}
        for name, values in columns.items():
            result[name] = values
            result[name + TIMESTAMP_POSTFIX] = [*seconds[views[name]]] if name in views else [0] * len(values)
        return result

    def _values(self) -> dict[str, list[Any]]:
        vectors = self._vectors
        listed = dict(zip(vectors.columns, vectors.values.T.tolist(), strict=True))
        complete = dict(zip(vectors.columns, (vectors.statuses == PRESENT).all(axis=0).tolist(), strict=True))
        values: dict[str, list[Any]] = {}
        for column in self._request.columns:
            place = (column.alias, column.name)
            if column.dtype not in protobuf.SLOTS:
                messages = protobuf.proto_values(column.dtype, column.kind, vectors.objects[place])
                kind = self._feature_types.get(column.label)
                values[column.label] = [feast_value_type_to_python_type(m, kind) for m in messages]
            elif place in vectors.objects:
                values[column.label] = [*vectors.objects[place]]
            else:
                values[column.label] = protobuf.numbers(listed[place], column.dtype, complete=complete[place])
        return values


class FilledResponse(OnlineResponse):
    """The response that Feast made, with the values that asof read kept as Python values, so that they are not decoded again.

    Args:
        response: What Feast made.
        known: Feature -> n values, for features whose protobuf holds exactly these.
        filled: Names of all features that asof filled; the others are keys, request fields and on-demand features.
    """

    def __init__(self, response: OnlineResponse, known: Mapping[str, list[Any]], filled: Collection[str]) -> None:
        super().__init__(response.proto, response._feature_types)  # noqa: SLF001 - there is no other way to them
        self._known = known
        for name, vector in zip(self.proto.metadata.feature_names.val, self.proto.results, strict=True):
            if name not in filled:
                _mark_nulls(vector)

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """As Feast's: feature -> n Python values."""
        result: dict[str, Any] = {}
        for name, vector in zip(self.proto.metadata.feature_names.val, self.proto.results, strict=True):
            kept, kind = self._known.get(name), self._feature_types.get(name)
            result[name] = (
                [feast_value_type_to_python_type(v, kind) for v in vector.values] if kept is None else [*kept]
            )
            if include_event_timestamps:
                result[name + TIMESTAMP_POSTFIX] = [ts.seconds for ts in vector.event_timestamps]
        return result


def _mark_nulls(vector: GetOnlineFeaturesResponse.FeatureVector) -> None:
    """Feast marks every on-demand value PRESENT, also those that are missing."""
    for position, (value, status) in enumerate(zip(vector.values, vector.statuses, strict=True)):
        if status == FieldStatus.PRESENT and _missing(value):
            vector.statuses[position] = FieldStatus.NULL_VALUE


def _missing(value: Value) -> bool:
    slot = value.WhichOneof("val")
    return slot is None or (slot in ("double_val", "float_val") and getattr(value, slot) != getattr(value, slot))


def _compiled(context: tuple[Any, ...], full_names: bool) -> FeatureRequest | None:
    _, on_demand, _, _, _, grouped, _, request_data, without_entities = context
    versions = (getattr(table.projection, "version_tag", None) for table, _ in grouped)
    if on_demand or request_data or without_entities or not grouped or any(v is not None for v in versions):
        return None
    columns = []
    for table, names in grouped:
        alias, types = table.projection.name_to_use(), {f.name: f.dtype for f in table.features}
        for name in names:
            label = f"{alias}__{name}" if full_names else name
            columns.append(ResponseColumn(label, alias, name, str(types[name]).lower(), types[name]))
    feature_types = OnlineStore._build_feature_types(grouped)  # noqa: SLF001 - as Feast does
    return FeatureRequest(context, grouped, tuple(columns), feature_types)


def keyed_rows(rows: Any) -> Any:
    """Rows of a request as Feast takes them; for rows without a field, of views without entities, Feast's own dummy key."""
    if isinstance(rows, list) and rows and not any(rows):
        return {DUMMY_ENTITY_ID: [DUMMY_ENTITY_VAL] * len(rows)}
    return rows


def _columns(rows: Any) -> dict[str, list[Any]] | None:
    """The columns of a request given as rows or as columns; None where Feast refuses the request."""
    if isinstance(rows, list):
        names = list(rows[0]) if rows else []
        if not names or {len(row) for row in rows} != {len(names)}:
            return None
        try:
            return {name: [row[name] for row in rows] for name in names}
        except KeyError:
            return None
    if isinstance(rows, Mapping) and all(isinstance(values, list) and values for values in rows.values()):
        return dict(rows)
    return None


def _native(values: Sequence[Any], kind: ValueType) -> bool:
    """Whether protobuf returns values of this type unchanged."""
    given = set(map(type, values))
    if given == {int}:
        limit = _LIMITS.get(ValueType.INT64 if kind is ValueType.UNKNOWN else kind, 0)
        return bool(-limit <= min(values) and max(values) < limit)
    return given == {str} and (kind is ValueType.STRING or (kind is ValueType.UNKNOWN and all(values)))
