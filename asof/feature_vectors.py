"""Assembles feature vectors from stored values and a request, for serving, training and the skew check alike.

Numeric features are ``float64`` arrays in which NaN is missing, all others are lists in which None is missing.
On-demand functions get plain Python values of the declared types (an ``int64`` feature arrives as ``int``, a moment as
aware ``datetime``), so that their results do not depend on the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof.categories import Vocabulary, codes
from asof.contract import Contract, Field, OnDemandView, on_demand
from asof.errors import ContractError, SchemaError
from asof.instants import from_micros

Column = NDArray[np.float64] | list[Any]
Stored = Mapping[tuple[str, str], Sequence[Any] | NDArray[Any]]


def assemble(contract: Contract, stored: Stored, request: Mapping[str, Sequence[Any]]) -> dict[str, Column]:
    """All features of the service, in its order; on-demand ones are computed.

    Args:
        contract: The contract.
        stored: (view alias, feature) -> n values, for every stored feature that is read; missing is NaN or None.
        request: Request field -> n Python values; a naive ``datetime`` means UTC.

    Returns:
        Feature name -> ``float64[n]`` for numeric features, list of n Python values for others.

    Raises:
        ContractError: An on-demand function failed, or returned a value that its feature's type cannot hold.
        SchemaError: A stored feature or a request field is not among the given ones.
    """
    computed: dict[tuple[str, str], Sequence[Any]] = {}
    for view in contract.on_demand:
        values = on_demand.compute_view(view, _inputs(contract, view, stored, request))
        computed.update({(view.alias, name): column for name, column in values.items()})
    found: dict[str, Column] = {}
    for feature in contract.features:
        source: Stored = computed if feature.on_demand else stored
        found[feature.name] = as_column(
            Field(feature.name, feature.dtype), _get(source, (feature.view, feature.feature))
        )
    return found


def matrix(
    contract: Contract,
    columns: Mapping[str, Column],
    names: Sequence[str] | None = None,
    vocabularies: Mapping[str, Vocabulary] | None = None,
) -> NDArray[np.float64]:
    """The features as a model matrix ``float64[n, F]``, NaN for missing.

    Args:
        contract: The contract.
        columns: As :func:`assemble` returns them.
        names: The features to take, in order; by default all of the service.
        vocabularies: Categorical feature -> the codes of its values.

    Raises:
        SchemaError: A feature is neither numeric nor a category.
    """
    categories = vocabularies or {}
    numeric = {f.name for f in contract.features if f.numeric} | set(categories)
    chosen = contract.feature_names if names is None else names
    if unfit := [name for name in chosen if name not in numeric]:
        raise SchemaError(f"features {unfit} are not numeric, so a model matrix cannot hold them; leave them out")
    rows = len(columns[chosen[0]]) if chosen else 0
    filled = np.empty((rows, len(chosen)))
    for position, name in enumerate(chosen):
        filled[:, position] = codes(columns[name], categories[name]) if name in categories else columns[name]
    return filled


def as_column(field: Field, values: Sequence[Any] | NDArray[Any]) -> Column:
    """``values`` in the form that :func:`assemble` returns for a feature of this type; ``float64`` arrays are returned as they are.

    Raises:
        ContractError: The type cannot hold a value.
    """
    if not field.numeric:
        return [None if _missing(v) else v for v in values]
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return values
    try:
        column = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ContractError(f"feature {field.name!r}: a value is not a number, expected {field.dtype}") from error
    if field.dtype == "float32":
        with np.errstate(over="ignore"):  # float32's own infinity is the value that is stored
            return column.astype(np.float32).astype(np.float64)
    if field.dtype.startswith("int") and not _whole(column):
        raise ContractError(f"feature {field.name!r}: a value is not a whole number, expected {field.dtype}")
    return column


def _whole(column: NDArray[np.float64]) -> bool:
    return bool(np.all(np.isnan(column) | ((column == np.rint(column)) & np.isfinite(column))))


def as_python(field: Field, values: Sequence[Any] | NDArray[Any]) -> list[Any]:
    """``values`` as plain Python values of the declared type, None for missing."""
    convert = _PYTHON.get(field.dtype, _unchanged)
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return [None if _missing(v) else convert(v) for v in listed]


def _inputs(
    contract: Contract, view: OnDemandView, stored: Stored, request: Mapping[str, Sequence[Any]]
) -> dict[str, list[Any]]:
    given = {
        name: as_python(contract.view(alias).feature(name), _get(stored, (alias, name))) for alias, name in view.inputs
    }
    given.update({f.name: as_python(f, _get(request, f.name)) for f in view.request})
    return given


def _get(columns: Mapping[Any, Any], name: Any) -> Any:
    try:
        return columns[name]
    except KeyError:
        label = name if isinstance(name, str) else ":".join(name)
        raise SchemaError(f"no values were given for {label!r}; given: {sorted(map(str, columns))}") from None


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return from_micros(int(value))


def _single(value: Any) -> float:
    return float(np.float32(value))


def _unchanged(value: Any) -> Any:
    return value


_PYTHON: dict[str, Callable[[Any], Any]] = {
    "int32": int, "int64": int, "float32": _single, "float64": float, "bool": bool, "unixtimestamp": _moment,
}  # fmt: skip
