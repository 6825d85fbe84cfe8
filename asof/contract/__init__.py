"""The contract of a feature service: its classes, its diff, on-demand functions, Arrow types, and the cache of compiled contracts."""

from asof.contract.definitions import (
    EVENT_ID_TAG,
    FORMAT,
    KEY_TYPES,
    NUMERIC_TYPES,
    WINDOW_FUNCTIONS,
    Aggregation,
    Contract,
    Feature,
    Field,
    JoinKey,
    OnDemandView,
    Source,
    View,
    WindowFunction,
    view_fingerprint,
)

__all__ = [
    "EVENT_ID_TAG",
    "FORMAT",
    "KEY_TYPES",
    "NUMERIC_TYPES",
    "WINDOW_FUNCTIONS",
    "Aggregation",
    "Contract",
    "Feature",
    "Field",
    "JoinKey",
    "OnDemandView",
    "Source",
    "View",
    "WindowFunction",
    "view_fingerprint",
]
