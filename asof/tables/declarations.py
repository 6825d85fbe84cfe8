"""The tables that a repo has applied, without Feast where possible.

Declarations live in Feast's registry, and reading it means importing Feast, which takes longer than an ingest. So what was
read once is kept as JSON in ``data/declarations.json`` beside the SHA-256 of the registry file that it was read from; another
registry file, project or asof means reading again. A registry that is no local file (SQL, a bucket) is always read through Feast.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asof.contract import Contract, View
from asof.contract.cache import digest, registry_file, write_whole
from asof.errors import AsofError, NotFoundError, SourceError
from asof.feast.calls import feast_call
from asof.repo import Repo
from asof.tables.schema import TableDeclaration

CACHE = "declarations.json"


@dataclass(frozen=True)
class Declarations:
    """Everything that is declared about a repo's tables.

    Attributes:
        tables: Tables by name.
        views: Stored feature views, sorted by name.
    """

    tables: dict[str, TableDeclaration]
    views: tuple[View, ...]

    def table(self, name: str) -> TableDeclaration:
        """The table called ``name``, or fed by the push source of that name.

        Raises:
            NotFoundError: There is none.
            SourceError: There are no tables at all.
        """
        by_push = {push: table for table in self.tables.values() for push in table.push_names}
        if not self.tables:
            raise SourceError("no table is declared yet; declare a FileSource and run `asof apply`")
        found = self.tables.get(name) or by_push.get(name)
        if found is None:
            raise NotFoundError("table", name, [*self.tables, *by_push])
        return found

    def readers(self, table: str) -> tuple[View, ...]:
        """The views that read from ``table``."""
        return tuple(v for v in self.views if v.source.name == table)


def declarations(repo: Repo) -> Declarations:
    """The applied declarations of ``repo``.

    Raises:
        SourceError: Nothing was applied yet, or the registry cannot be read.
        SettingsError: A view or a source declares what asof cannot work with.
    """
    registry = registry_file(repo.settings)
    if registry is None:
        return _compile(repo)
    if not registry.is_file():
        raise SourceError(f"nothing is declared yet: {registry} does not exist; run `asof apply` first")
    key = digest(repo.settings, registry)
    found = _read(repo.settings.data / CACHE, key)
    if found is None:
        found = _compile(repo)
        _write(repo.settings.data / CACHE, key, repo.settings.project, found)
    return found


def compile_tables(sources: Iterable[Any], views: Iterable[View]) -> dict[str, TableDeclaration]:
    """The tables that Feast data sources declare, sorted by name.

    Args:
        sources: Data sources of any kind; those that are files are tables.
        views: All stored views.

    Raises:
        SettingsError: A source has a tag that is not of the grammar (see :mod:`asof.tables.schema`).
    """
    from feast import FileSource, PushSource

    listed, readers = list(sources), list(views)
    pushes: dict[str, list[str]] = {}
    for source in listed:
        if isinstance(source, PushSource) and source.batch_source is not None:
            pushes.setdefault(source.batch_source.name, []).append(source.name)
    tables = {s.name: _table(s, pushes.get(s.name, []), readers) for s in listed if isinstance(s, FileSource)}
    for table in tables.values():
        table.check()
    return dict(sorted(tables.items()))


def _compile(repo: Repo) -> Declarations:
    with feast_call("reading the registry", repo=repo.path):
        views = repo.views()
        tables = compile_tables(repo.store.list_data_sources(), views.values())
    return Declarations(tables, tuple(views[name] for name in sorted(views)))


def _table(source: Any, pushes: Iterable[str], views: Iterable[View]) -> TableDeclaration:
    from feast.data_format import DeltaFormat

    return TableDeclaration(
        name=source.name,
        path=source.path,
        format="delta" if isinstance(source.file_format, DeltaFormat) else "parquet",
        timestamp_field=source.timestamp_field,
        knowledge_field=source.created_timestamp_column or None,
        keys=_keys(source.name, views),
        push_names=tuple(sorted(pushes)),
        field_mapping=dict(source.field_mapping or {}),
        tags=dict(source.tags or {}),
    )


def _keys(table: str, views: Iterable[View]) -> tuple[str, ...]:
    readers = [v for v in views if v.source.name == table]
    return tuple(sorted({v.source.column(k.column) for v in readers for k in v.join_keys}))


def _read(cache: Path, key: str) -> Declarations | None:
    try:
        payload = json.loads(cache.read_text())
        if payload["key"] != key:
            return None
        tables = [TableDeclaration.from_dict(t) for t in payload["tables"]]
        views = Contract.from_json(payload["views"]).views
    except (OSError, ValueError, KeyError, TypeError, AsofError):
        return None
    return Declarations({t.name: t for t in tables}, views)


def _write(cache: Path, key: str, project: str, found: Declarations) -> None:
    payload = {
        "key": key,
        "tables": [t.to_dict() for t in found.tables.values()],
        "views": Contract(project, "", (), found.views).to_json(),
    }
    write_whole(cache, payload)
