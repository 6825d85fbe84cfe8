"""The contract of a feature service, as plain data.

Features are declared in Feast; a contract is the compiled declaration. It holds no Feast object, needs no import of Feast, travels
as JSON in the model bundle, and its fingerprint changes exactly when a value that the service returns could change. All code
that computes values (the offline store, the online store, the service, the skew check) works on the classes of this module.

:mod:`asof.feast.compiler` makes contracts from Feast definitions. Times are microseconds, see :mod:`asof.instants`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

from asof.errors import BundleError, NotFoundError

FORMAT = 2
"""Version of the JSON layout; a reader refuses unknown layouts."""

WindowFunction = Literal["count", "sum", "mean", "min", "max", "std", "var", "last", "count_distinct"]
WINDOW_FUNCTIONS: tuple[WindowFunction, ...] = (
    "count", "sum", "mean", "min", "max", "std", "var", "last", "count_distinct",
)  # fmt: skip

NUMERIC_TYPES = frozenset({"int32", "int64", "float32", "float64", "bool"})
"""Feature types that a model matrix can hold (as float64; NaN is missing)."""
EVENT_ID_TAG = "asof.id"
"""Tag of a Feast data source: the column that identifies an event."""

KEY_TYPES = ("bool", "bytes", "int32", "int64", "string", "timeuuid", "unixtimestamp", "uuid")
"""Types of join keys: equal values have equal texts, and different values have different texts."""


@dataclass(frozen=True, slots=True)
class Field:
    """A named column. ``dtype`` is Feast's type name in lower case, such as ``int64``, ``unixtimestamp`` or ``array(float32)``."""

    name: str
    dtype: str

    @property
    def numeric(self) -> bool:
        """Whether the column fits a model matrix."""
        return self.dtype in NUMERIC_TYPES


@dataclass(frozen=True, slots=True)
class JoinKey:
    """A key column: its name in the view's source, and in requests and entity rows (they differ under an entity alias)."""

    column: str
    request: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One window: the feature ``name`` is ``function`` over ``column`` of the events of the last ``window`` microseconds."""

    name: str
    column: str
    function: WindowFunction
    window: int


@dataclass(frozen=True, slots=True)
class Source:
    """The files that hold a view's rows.

    Attributes:
        name: Name of the Feast data source (for a push source, of its batch source).
        path: File, folder or Delta table; relative paths start at the feature repo.
        format: ``parquet`` or ``delta``.
        timestamp_field: Event time column, as spelled in the files.
        created_timestamp_column: Knowledge time column, as spelled in the files; None where there is none.
        field_mapping: Column name in the files -> name in the view.
        event_id: Column that identifies an event; None where rows have no identity of their own.
        push_name: Name of the push source that feeds the view; None where there is none.
    """

    name: str
    path: str
    format: Literal["parquet", "delta"]
    timestamp_field: str
    created_timestamp_column: str | None = None
    field_mapping: dict[str, str] = field(default_factory=dict)
    event_id: str | None = None
    push_name: str | None = None

    def column(self, name: str) -> str:
        """The spelling in the files of the view's column ``name``."""
        return next((raw for raw, mapped in self.field_mapping.items() if mapped == name), name)


@dataclass(frozen=True, slots=True)
class View:
    """A feature view.

    Attributes:
        name: Name in the registry; values are stored under it.
        alias: Name to use in references and full feature names (``with_name``); equal to ``name`` where there is none.
        join_keys: Key columns, in the order of the view's entities; empty for a view without entities.
        features: All features of the view, in declared order (not only those a service asks for).
        ttl: Greatest age in microseconds, 0 for no limit.
        source: The files that hold the rows.
        aggregations: Windows; empty for a plain view.
        hop: Bucket width in microseconds; 1 where the view declares no tiling.
        online: Whether the view is stored online.
    """

    name: str
    alias: str
    join_keys: tuple[JoinKey, ...]
    features: tuple[Field, ...]
    ttl: int
    source: Source
    aggregations: tuple[Aggregation, ...] = ()
    hop: int = 1
    online: bool = True

    @property
    def windowed(self) -> bool:
        """Whether values are aggregated from events; otherwise a value is the latest row's."""
        return bool(self.aggregations)

    @property
    def event_columns(self) -> tuple[str, ...]:
        """The distinct source columns that the windows aggregate, in order of first use (view's spelling)."""
        return tuple(dict.fromkeys(a.column for a in self.aggregations if a.column))

    @property
    def horizon(self) -> int:
        """Microseconds after its event time during which an event can be in a window (hop included)."""
        return max((a.window for a in self.aggregations), default=0) + self.hop

    def feature(self, name: str) -> Field:
        """The feature named ``name``.

        Raises:
            NotFoundError: The view has no such feature.
        """
        for candidate in self.features:
            if candidate.name == name:
                return candidate
        raise NotFoundError(f"feature of view {self.name!r}", name, [f.name for f in self.features])

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """The view that ``dataclasses.asdict`` made a dict of."""
        return cls(
            **{
                **payload,
                "join_keys": tuple(JoinKey(**k) for k in payload["join_keys"]),
                "features": tuple(Field(**f) for f in payload["features"]),
                "source": Source(**payload["source"]),
                "aggregations": tuple(Aggregation(**a) for a in payload["aggregations"]),
            }
        )


@dataclass(frozen=True, slots=True)
class OnDemandView:
    """Features computed from the request and from stored features by a function of the repo.

    The function is named, never pickled: ``function`` is ``module:attribute``, importable with the feature repo on the
    path. In mode ``python`` it takes a dict of lists and returns a dict of lists of the same length; ``singleton`` ones take
    and return single values; in mode ``pandas`` it takes and returns a DataFrame. Missing values are None.

    Attributes:
        source_hash: SHA-256 of the function's source text, so that a changed function is a changed contract.
        inputs: Stored features that the function reads, as (view alias, feature).
        request: Request fields that it reads.
        features: What it returns.
    """

    name: str
    alias: str
    function: str
    source_hash: str
    mode: Literal["python", "pandas"]
    singleton: bool
    inputs: tuple[tuple[str, str], ...]
    request: tuple[Field, ...]
    features: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """One output column of the service: ``name`` in the result, from feature ``feature`` of the view with alias ``view``."""

    name: str
    view: str
    feature: str
    dtype: str
    on_demand: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the feature fits a model matrix."""
        return self.dtype in NUMERIC_TYPES


@dataclass(frozen=True)
class Contract:
    """The contract of a feature service.

    Attributes:
        project: Feast project.
        service: Feature service.
        features: Output columns, in the order of the service.
        views: Every stored view that is read, also those that only feed on-demand functions.
        on_demand: On-demand views, in the order in which the service names them.
    """

    project: str
    service: str
    features: tuple[Feature, ...]
    views: tuple[View, ...]
    on_demand: tuple[OnDemandView, ...] = ()

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the output columns, in order."""
        return tuple(f.name for f in self.features)

    @cached_property
    def keys(self) -> tuple[Field, ...]:
        """The entity key columns that a request must carry, in order of first use."""
        found: dict[str, Field] = {}
        for key in (k for v in self.views for k in v.join_keys):
            found.setdefault(key.request, Field(key.request, key.dtype))
        return tuple(found.values())

    @cached_property
    def request_fields(self) -> tuple[Field, ...]:
        """The fields that a request must carry in addition to the keys, in order of first use."""
        found: dict[str, Field] = {}
        for view in self.on_demand:
            for request_field in view.request:
                found.setdefault(request_field.name, request_field)
        return tuple(found.values())

    def view(self, alias: str) -> View:
        """The stored view with this alias.

        Raises:
            NotFoundError: There is no such view.
        """
        for candidate in self.views:
            if candidate.alias == alias:
                return candidate
        raise NotFoundError("feature view", alias, [v.alias for v in self.views])

    def stored(self, view: View) -> tuple[str, ...]:
        """The features of ``view`` that must be read: those returned and those that on-demand functions need, in view order."""
        wanted = {f.feature for f in self.features if not f.on_demand and f.view == view.alias}
        wanted |= {name for o in self.on_demand for alias, name in o.inputs if alias == view.alias}
        return tuple(f.name for f in view.features if f.name in wanted)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over everything that a value depends on.

        Neither where the files lie nor the order in which Feast lists views, keys, columns and windows changes it; the order of
        the service's own features does, because it is the order of the model's columns.
        """
        payload = self.to_dict()
        payload["views"] = _by_name(map(_view_payload, self.views), "alias")
        payload["on_demand"] = _by_name(map(_on_demand_payload, self.on_demand), "alias")
        return _digest(payload)

    def view_fingerprint(self, view: View) -> str:
        """16 hexadecimal digits over what the stored values of one view depend on."""
        return view_fingerprint(view)

    def to_dict(self) -> dict[str, Any]:
        """The contract as JSON-ready data."""
        return {"format": FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """The contract as indented JSON text, with its fingerprint."""
        return json.dumps({**self.to_dict(), "fingerprint": self.fingerprint}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The contract that :meth:`to_json` wrote.

        Raises:
            BundleError: The text is damaged, has another layout, or does not match its fingerprint.
        """
        try:
            payload = json.loads(text)
            known = payload.pop("format")
            printed = payload.pop("fingerprint", None)
            if known != FORMAT:
                raise BundleError(f"the contract has layout {known}, expected {FORMAT}; rebuild it with this asof")
            contract = cls(**_contract_arguments(payload))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"the contract cannot be read ({error}); rebuild the model with `asof train`") from error
        if printed is not None and printed != contract.fingerprint:
            raise BundleError(
                f"the contract says fingerprint {printed} but has {contract.fingerprint}: it was changed by hand"
            )
        return contract


def view_fingerprint(view: View) -> str:
    """16 hexadecimal digits over what the stored values of ``view`` depend on: keys, features, types, windows, source columns."""
    payload = _view_payload(view)
    for name in ("alias", "online"):
        del payload[name]
    return _digest(payload)


def _view_payload(view: View) -> dict[str, Any]:
    """What a fingerprint covers of a view: not where its files lie, and not the order in which sets are written."""
    payload = asdict(view)
    payload["source"] = {k: v for k, v in payload["source"].items() if k not in {"path", "format", "push_name"}}
    payload["join_keys"] = _by_name(payload["join_keys"], "column")
    payload["features"] = _by_name(payload["features"], "name")
    payload["aggregations"] = _by_name(payload["aggregations"], "name")
    return payload


def _on_demand_payload(view: OnDemandView) -> dict[str, Any]:
    """What a fingerprint covers of an on-demand view, sets sorted."""
    payload = asdict(view)
    payload["inputs"] = sorted(payload["inputs"])
    payload["request"] = _by_name(payload["request"], "name")
    payload["features"] = _by_name(payload["features"], "name")
    return payload


def _by_name(items: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: str(item[name]))


def _digest(payload: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _contract_arguments(payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "project": payload["project"],
        "service": payload["service"],
        "features": tuple(Feature(**f) for f in payload["features"]),
        "views": tuple(View.from_dict(v) for v in payload["views"]),
        "on_demand": tuple(_on_demand(o) for o in payload["on_demand"]),
    }


def _on_demand(payload: dict[str, Any]) -> OnDemandView:
    return OnDemandView(
        **{
            **payload,
            "inputs": tuple((alias, name) for alias, name in payload["inputs"]),
            "request": tuple(Field(**f) for f in payload["request"]),
            "features": tuple(Field(**f) for f in payload["features"]),
        }
    )
