"""Lets Feast's ``push`` accept raw events of windowed views; the only place where asof patches Feast.

``FeatureStore.write_to_online_store`` (behind ``push``, ``push_async`` and the feature server's ``/push``) selects a view's
feature columns from the pushed rows before any plug-in is asked. The features of a windowed view are aggregates, so raw
events do not have them and Feast raises ``KeyError``. The step before the selection looks the view up. The patch returns a copy
without features for a windowed view, so that Feast selects nothing; the copy refers to the original view. Nothing else about
Feast changes.
"""

from __future__ import annotations

import copy
from functools import wraps
from typing import Any

from feast import FeatureStore, FeatureView, StreamFeatureView

_MARK = "_asof_declared_view"


def accept_raw_events() -> None:
    """Let ``push`` hand raw events of windowed views to the provider; does nothing the second time."""
    original = FeatureStore._get_feature_view_and_df_for_online_write  # noqa: SLF001 - there is no public hook
    if hasattr(original, _MARK):
        return

    @wraps(original)
    def lookup(self: FeatureStore, *args: Any, **options: Any) -> Any:
        view, frame = original(self, *args, **options)
        return (without_features(view), frame) if _windowed(view) else (view, frame)

    setattr(lookup, _MARK, original)
    FeatureStore._get_feature_view_and_df_for_online_write = lookup  # type: ignore[method-assign]  # noqa: SLF001


def without_features(view: StreamFeatureView) -> StreamFeatureView:
    """A copy of ``view`` without features, for :func:`declared_view` to undo."""
    stand_in = copy.copy(view)
    stand_in.features = []
    setattr(stand_in, _MARK, view)
    return stand_in


def declared_view(view: FeatureView) -> FeatureView:
    """The view that was declared, given it or its copy without features."""
    declared: FeatureView = getattr(view, _MARK, view)
    return declared


def _windowed(view: Any) -> bool:
    return isinstance(view, StreamFeatureView) and bool(view.aggregations)
