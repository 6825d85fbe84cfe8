"""What a repo has applied, read from Feast's registry: the feature store, compiled views, contracts and table declarations."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from feast import FeatureStore, FileSource, PushSource
from feast.data_format import DeltaFormat

from asof.contract import Contract, View
from asof.contract.on_demand import add_path
from asof.errors import NotFoundError
from asof.feast.calls import feast_call
from asof.feast.compiler import compile_service, compile_view, spelled_in_files
from asof.settings import RepoSettings
from asof.tables.schema import TableDeclaration

__all__ = ["FeatureStore", "applied_contract", "applied_tables", "applied_views", "compile_tables", "open_store"]


def open_store(repo: Path) -> FeatureStore:
    """Feast's feature store of the repo at ``repo``; the folder is put on ``sys.path``, as Feast's command line does."""
    add_path(str(repo))
    # Feast repeats this warning at every use of such a view; asof computes their values itself and tests them.
    warnings.filterwarnings("ignore", "Stream feature views are experimental", RuntimeWarning)
    return FeatureStore(repo_path=str(repo))


def applied_views(store: FeatureStore) -> dict[str, View]:
    """All applied stored views by name.

    Raises:
        SettingsError: A view declares what asof does not support.
    """
    return {v.name: compile_view(v) for v in [*store.list_feature_views(), *store.list_stream_feature_views()]}


def applied_contract(store: FeatureStore, settings: RepoSettings, service: str) -> Contract:
    """The contract of an applied feature service, compiled from the registry.

    Raises:
        NotFoundError: There is no such service.
        SettingsError: A view declares what asof does not support.
    """
    with feast_call("reading the registry", repo=settings.path):
        declared = {s.name: s for s in store.list_feature_services()}
        if service not in declared:
            raise NotFoundError("feature service", service, declared)
        stored: list[Any] = [*store.list_feature_views(), *store.list_stream_feature_views()]
        return compile_service(
            declared[service], [*stored, *store.list_on_demand_feature_views()], settings.project, settings.path
        )


def applied_tables(store: FeatureStore, repo: Path) -> tuple[dict[str, TableDeclaration], tuple[View, ...]]:
    """The applied tables by name, and all stored views sorted by name.

    Raises:
        SettingsError: A view or a source declares what asof does not support.
    """
    with feast_call("reading the registry", repo=repo):
        views = applied_views(store)
        tables = compile_tables(store.list_data_sources(), views.values())
    return tables, tuple(views[name] for name in sorted(views))


def compile_tables(sources: Iterable[Any], views: Iterable[View]) -> dict[str, TableDeclaration]:
    """The tables that Feast data sources declare, sorted by name.

    Args:
        sources: Data sources of any kind; each file source is a table.
        views: All stored views.

    Raises:
        SettingsError: A source has a tag that does not follow the grammar (see :mod:`asof.tables.schema`).
    """
    listed, readers = list(sources), list(views)
    pushes: dict[str, list[str]] = {}
    for source in listed:
        if isinstance(source, PushSource) and source.batch_source is not None:
            pushes.setdefault(source.batch_source.name, []).append(source.name)
    tables = {s.name: _table(s, pushes.get(s.name, []), readers) for s in listed if isinstance(s, FileSource)}
    for table in tables.values():
        table.check()
    return dict(sorted(tables.items()))


def _table(source: FileSource, pushes: Iterable[str], views: Iterable[View]) -> TableDeclaration:
    return TableDeclaration(
        name=source.name,
        path=source.path,
        format="delta" if isinstance(source.file_format, DeltaFormat) else "parquet",
        timestamp_field=spelled_in_files(source, source.timestamp_field),
        knowledge_field=spelled_in_files(source, source.created_timestamp_column) or None,
        keys=_keys(source.name, views),
        push_names=tuple(sorted(pushes)),
        field_mapping=dict(source.field_mapping or {}),
        tags=dict(source.tags or {}),
    )


def _keys(table: str, views: Iterable[View]) -> tuple[str, ...]:
    readers = [v for v in views if v.source.name == table]
    return tuple(sorted({v.source.column(k.column) for v in readers for k in v.join_keys}))
