"""Point-in-time retrieval: entity rows in, the same rows in the same order with their features out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from asof.contract import on_demand
from asof.errors import NotFoundError, SchemaError
from asof.offline.arrow_columns import conform, micros
from asof.offline.duckdb_engine import Engine, EngineSettings
from asof.offline.source_rows import EntityRows
from asof.offline.sources import SourceFiles, check_view, open_files
from asof.offline.view_values import view_values

if TYPE_CHECKING:
    from asof.contract import Contract, View


def retrieve(
    contract: Contract,
    entity_rows: pa.Table,
    *,
    at: str,
    repo: Path,
    knowledge: bool = True,
    versions: Mapping[str, int] | None = None,
    settings: EngineSettings | None = None,
) -> pa.Table:
    """Every feature of the contract for every entity row, as it was known at the row's moment.

    Args:
        contract: The features to return.
        entity_rows: n rows with the contract's keys and request fields, and the column ``at``.
        at: Column of the rows' moments: timestamps of any unit (naive means UTC), dates, or ISO 8601 text.
        repo: Folder that relative source paths start at; on-demand functions are imported from it.
        knowledge: Whether rows are hidden until their knowledge time; False for Feast's default.
        versions: Source name -> version of its Delta table; the newest where it is not named.
        settings: Engine settings; by default those of the repo.

    Returns:
        The n rows as given, in their order, and the features in the contract's order.

    Raises:
        SchemaError: The entity rows lack a column, or it has the wrong type, or a row has no moment.
        SourceError: A source is missing, empty, lacks a column or has another type.
        NotFoundError: ``versions`` names a source that the contract does not read.
    """
    prepared = PreparedRetrieval.of(contract, entity_rows.schema, at, repo, versions)
    rows = EntityRows(entity_rows, moments(entity_rows, at))
    chosen = settings or EngineSettings.load(repo)

    def values(view: View) -> dict[str, pa.Array]:
        with closing(Engine(chosen, repo)) as engine:
            return view_values(
                view, contract.stored(view), prepared.files[view.alias], rows, engine, knowledge=knowledge
            )

    with ThreadPoolExecutor(max_workers=chosen.workers) as pool:
        stored = dict(zip((v.alias for v in contract.views), pool.map(values, contract.views), strict=True))
    return assemble(contract, entity_rows, stored)


@dataclass(frozen=True)
class PreparedRetrieval:
    """A contract whose sources were found and checked; ``files`` maps a view's alias to its source files."""

    contract: Contract
    files: Mapping[str, SourceFiles]

    @classmethod
    def of(
        cls, contract: Contract, schema: pa.Schema, at: str, repo: Path, versions: Mapping[str, int] | None = None
    ) -> PreparedRetrieval:
        """Find and check everything that can be checked without reading data; see :func:`retrieve`."""
        check_rows(contract, schema, at)
        wanted = dict(versions or {})
        known = {v.source.name for v in contract.views}
        if unknown := sorted(set(wanted) - known):
            raise NotFoundError("source", unknown[0], known)
        files = {v.alias: open_files(v.source, repo, wanted.get(v.source.name)) for v in contract.views}
        for view in contract.views:
            check_view(view, files[view.alias], contract.stored(view))
        if contract.on_demand:
            on_demand.add_path(str(repo))
        return cls(contract, files)

    @property
    def versions(self) -> dict[str, int]:
        """Source name -> version of its Delta table, for the sources that have versions."""
        named = {f.source: f.version for f in self.files.values()}
        return {name: version for name, version in sorted(named.items()) if version is not None}


def check_rows(contract: Contract, schema: pa.Schema, at: str) -> None:
    """Check the columns of entity rows.

    Raises:
        SchemaError: One is missing, duplicated, or has the name of a feature.
    """
    names = schema.names
    needed = [at, *(k.name for k in contract.keys), *(f.name for f in contract.request_fields)]
    for name in needed:
        if names.count(name) != 1:
            given = "twice the" if name in names else "no"
            raise SchemaError(
                f"entity rows have {given} column {name!r}; {contract.service!r} needs {', '.join(dict.fromkeys(needed))}"
            )
    stored = {f.name for f in contract.features}
    for name in names:
        if name in stored:
            raise SchemaError(
                f"entity rows have a column {name!r}, which is also a feature of {contract.service!r}; rename or drop it"
            )


def moments(rows: pa.Table, at: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The moments of entity rows in microseconds UTC.

    Raises:
        SchemaError: The column does not hold moments, or a row has none.
    """
    found, missing = micros(rows[at], f"entity column {at!r}")
    if missing is not None and missing.any():
        raise SchemaError(f"entity row {int(np.argmax(missing))} has no value in {at!r}; every row needs a moment")
    return found


def assemble(contract: Contract, rows: pa.Table, stored: Mapping[str, Mapping[str, pa.Array]]) -> pa.Table:
    """``rows`` with the contract's features: the ``stored`` ones (by view alias and feature) and those computed on demand."""
    computed = _on_demand(contract, rows, stored)
    columns = [computed[f.name] if f.on_demand else stored[f.view][f.feature] for f in contract.features]
    for feature, column in zip(contract.features, columns, strict=True):
        rows = rows.append_column(feature.name, column)
    return rows


def _on_demand(contract: Contract, rows: pa.Table, stored: Mapping[str, Mapping[str, pa.Array]]) -> dict[str, pa.Array]:
    computed: dict[str, pa.Array] = {}
    requested = {f.name for f in contract.features if f.on_demand}
    for view in contract.on_demand:
        given = {name: plain_values(stored[alias][name]) for alias, name in view.inputs}
        given |= {
            f.name: plain_values(conform(rows[f.name], f.dtype, f"entity column {f.name!r}")) for f in view.request
        }
        values = on_demand.compute_view(view, given)
        names = {f.feature: f for f in contract.features if f.on_demand and f.view == view.alias}
        for field in view.features:
            if field.name in names:
                computed[names[field.name].name] = _typed(
                    values[field.name], field.dtype, f"feature {view.name}:{field.name}"
                )
    return {name: computed[name] for name in requested}


def plain_values(column: pa.Array) -> list[Any]:
    """Python values with None for missing, as on-demand functions take them."""
    if pa.types.is_floating(column.type):
        return [None if v is None or v != v else v for v in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _typed(values: Sequence[Any], dtype: str, owner: str) -> pa.Array:
    return conform(pa.array(values, from_pandas=True), dtype, owner)
