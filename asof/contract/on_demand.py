"""Calls on-demand functions, for training, serving and the skew check alike.

A function is imported by the name in the contract and called with plain Python values, whatever the caller holds: lists with
None for missing in mode ``python``, a DataFrame in mode ``pandas``. So the same function sees the same input everywhere.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from asof.contract import Contract, OnDemandView
from asof.errors import ContractError
from asof.quantities import counted

Columns = Mapping[str, Sequence[Any]]


def compute(contract: Contract, columns: Columns) -> dict[str, list[Any]]:
    """Every on-demand feature of the contract.

    Args:
        contract: The contract.
        columns: The stored features that the functions read and the request fields, by name; lists of n Python values each,
            None for missing, moments as aware ``datetime``.

    Returns:
        Feature name -> list of n values, None for missing.

    Raises:
        ContractError: A function cannot be imported, failed, or returned another number of rows or lacks a feature.
    """
    computed: dict[str, list[Any]] = {}
    for view in contract.on_demand:
        computed.update(compute_view(view, columns))
    return computed


def compute_view(view: OnDemandView, columns: Columns) -> dict[str, list[Any]]:
    """The features of one on-demand view; see :func:`compute`."""
    names = [*(name for _, name in view.inputs), *(f.name for f in view.request)]
    given = {name: list(columns[name]) for name in names}
    rows = len(next(iter(given.values()), []))
    function = load(view.function)
    try:
        result = _CALL[view.mode, view.singleton](function, given, rows)
    except Exception as error:
        raise ContractError(f"on-demand function {view.function} failed: {type(error).__name__}") from error
    return {f.name: _checked(view, f.name, result, rows) for f in view.features}


@lru_cache(maxsize=256)
def load(function: str) -> Callable[..., Any]:
    """The function named ``module:attribute``; the feature repo must be on ``sys.path``.

    Raises:
        ContractError: There is no such module or attribute.
    """
    module, _, attribute = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ContractError(
            f"on-demand function {function} cannot be imported ({error}); is the feature repo on the path?"
        ) from error
    transformation = getattr(found, "feature_transformation", None)
    loaded: Callable[..., Any] = getattr(transformation, "udf", found)
    return loaded


def add_path(folder: str) -> None:
    """Put ``folder`` first on ``sys.path``, once."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _call_lists(function: Callable[..., Any], given: dict[str, list[Any]], rows: int) -> Mapping[str, Sequence[Any]]:
    result: Mapping[str, Sequence[Any]] = function(given)
    return result


def _call_single(function: Callable[..., Any], given: dict[str, list[Any]], rows: int) -> Mapping[str, Sequence[Any]]:
    answers = [function({name: values[i] for name, values in given.items()}) for i in range(rows)]
    return {name: [answer[name] for answer in answers] for name in (answers[0] if answers else {})}


def _call_frame(function: Callable[..., Any], given: dict[str, list[Any]], rows: int) -> Mapping[str, Sequence[Any]]:
    import pandas as pd

    frame = function(pd.DataFrame(given))
    return {name: frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame.columns}


_CALL = {("python", False): _call_lists, ("python", True): _call_single, ("pandas", False): _call_frame}


def _checked(view: OnDemandView, name: str, result: Mapping[str, Sequence[Any]], rows: int) -> list[Any]:
    if name not in result and rows:
        raise ContractError(f"on-demand function {view.function} did not return {name!r}; it returned {sorted(result)}")
    values = list(result.get(name, ()))
    if len(values) != rows:
        raise ContractError(
            f"on-demand function {view.function} returned {counted(len(values), 'value')} of {name!r}, expected {rows}"
        )
    return values
