"""The applied declarations of a repo's tables, from a cache where possible.

Declarations are stored in Feast's registry. Importing Feast takes longer than an ingest, so the declarations are cached as
JSON in ``data/declarations.json`` beside the SHA-256 of the registry file they were read from; a change of the registry
file, the project or the version of asof invalidates the cache. A registry that is not a local file (SQL, a bucket) is
read through Feast every time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from asof.contract import Contract, View
from asof.contract.cache import digest, registry_file, write_whole
from asof.errors import AsofError, NotFoundError, SourceError
from asof.repo import Repo
from asof.tables.schema import TableDeclaration

CACHE = "declarations.json"


@dataclass(frozen=True)
class Declarations:
    """The declarations of a repo's tables.

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


def _compile(repo: Repo) -> Declarations:
    from asof.feast.registry import applied_tables

    return Declarations(*applied_tables(repo.store, repo.path))


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
