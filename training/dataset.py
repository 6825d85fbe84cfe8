"""The dataset of a training run: rows of a table, labels from another, features from the offline store.

All features come from :func:`asof.offline.retrieve` with knowledge time on. Every table is read at one version, fixed when the
run begins, so that rows ingested during the run have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from asof.categories import CATEGORY_TYPES, Vocabulary, codes, vocabulary
from asof.contract import Contract, Source
from asof.errors import NotFoundError, SchemaError, SettingsError, SourceError
from asof.offline.duckdb_engine import EngineSettings, asking, quoted
from asof.offline.provenance import files_digest
from asof.offline.sources import SourceFiles, open_files
from asof.task import BINARY, COUNTS, Binary, Multiclass, Ranking, Regression, Task
from asof.training.model import Model

if TYPE_CHECKING:
    from asof.repo import Repo
    from asof.tables.schema import TableDeclaration

Times = npt.NDArray[np.int64]

GRADES = 31
"""Grades of relevance that LightGBM knows gains of."""


@dataclass(frozen=True)
class Labelled:
    """n labelled rows, by event time and then by id.

    Attributes:
        rows: Event time, keys, request fields and id, as the table spells them.
        time: int64[n], event times in microseconds, UTC.
        label: float64[n]; for classes their numbers.
        usable: int64[n], moments from which the labels may be used.
        seen: int64[n], moments at which the labels' rows become known, so that windows over them contain them.
        task: The model's task, with its classes.
    """

    rows: pa.Table
    time: Times
    label: npt.NDArray[np.float64]
    usable: Times
    seen: Times
    task: Task = BINARY

    def __len__(self) -> int:
        return len(self.time)

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """int64[n]: dense codes of the groups of a ranking; None for other tasks."""
        return self.codes(self.task.group) if isinstance(self.task, Ranking) else None

    def codes(self, key: str) -> npt.NDArray[np.int64]:
        """int64[n]: dense codes of a key column, in the order of the key's values; a missing key is the last."""
        encoded = pc.dictionary_encode(self.rows[key].combine_chunks())
        order = pc.array_sort_indices(encoded.dictionary).to_numpy()
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        place = encoded.indices.fill_null(len(order)).to_numpy()
        return np.asarray(np.append(rank, len(order))[place], np.int64)


@dataclass(frozen=True)
class Tables:
    """The tables of one training run, each at one version.

    Attributes:
        model: The model.
        contract: The contract of its feature service.
        repo: Folder of the feature repo.
        rows: Files of the rows' table.
        labels: Files of the labels' table.
        declaration: Declaration of the labels' table.
        versions: Table -> version, for tables that have versions.
        digests: Source -> SHA-256 of its files, for plain Parquet.
    """

    model: Model
    contract: Contract
    repo: Path
    rows: SourceFiles
    labels: SourceFiles
    declaration: TableDeclaration
    versions: Mapping[str, int]
    digests: Mapping[str, str]

    @classmethod
    def open(cls, repo: Repo, model: Model, contract: Contract) -> Tables:
        """The newest versions of all tables that ``model`` reads.

        Raises:
            NotFoundError: A table is not declared.
            SettingsError: The model's keys are not those of the contract.
            SourceError: A table cannot be read, or is empty.
            SchemaError: A table lacks a column.
        """
        from asof.tables import declarations

        declared = declarations(repo)
        labels = model.rows.label_table or model.rows.table
        return cls.of(model, contract, repo.path, declared.table(model.rows.table), declared.table(labels))

    @classmethod
    def of(
        cls, model: Model, contract: Contract, repo: Path, scored: TableDeclaration, labels: TableDeclaration
    ) -> Tables:
        """As :meth:`open`, with the declarations of the two tables at hand; ``repo`` is where relative paths start."""
        if missing := [k.name for k in contract.keys if k.name not in model.rows.keys]:
            raise SettingsError(
                f"model {model.name!r} names the keys {', '.join(model.rows.keys) or 'none'}, "
                f"but service {contract.service!r} needs {missing[0]!r}"
            )
        _check_categories(model, contract)
        asked = [k.name for k in contract.keys] + [f.name for f in contract.request_fields]
        if isinstance(model.task, Ranking) and model.task.group not in asked:
            raise NotFoundError(f"key or request field of service {contract.service!r}", model.task.group, asked)
        sources = {v.source.name: v.source for v in contract.views}
        for table in (scored, labels):
            sources.setdefault(table.name, Source(table.name, table.path, table.format, table.timestamp_field))
        opened = {name: open_files(source, repo) for name, source in sources.items()}
        versions = {name: files.version for name, files in sorted(opened.items()) if files.version is not None}
        digests = {name: files_digest(files) for name, files in sorted(opened.items()) if files.version is None}
        found = cls(model, contract, repo, opened[scored.name], opened[labels.name], labels, versions, digests)
        found._check()
        return found

    def _check(self) -> None:
        rows = self.model.rows
        wanted = (
            (self.rows, self._row_columns()),
            (self.labels, [rows.id, rows.label, *([rows.label_time] if rows.label_time else [])]),
        )
        for files, names in wanted:
            if not files.rows:
                raise SourceError(f"table {files.source!r} has no rows; ingest some before training")
            if missing := [n for n in names if n not in files.schema.names]:
                raise SchemaError(
                    f"model {self.model.name!r} reads column {missing[0]!r} of table {files.source!r}, "
                    f"which has {', '.join(files.schema.names)}"
                )

    def _row_columns(self) -> list[str]:
        """Event time, keys, request fields and id, each once."""
        named = [k.name for k in self.contract.keys] + [f.name for f in self.contract.request_fields]
        return list(dict.fromkeys([self.model.rows.event_time, *self.model.rows.keys, *named, self.model.rows.id]))

    def extent(self) -> tuple[int, int]:
        """Event times of the first and the last labelled row.

        Raises:
            SourceError: No row has a label.
        """
        bounds = self._ask(f"SELECT min(time) AS first, max(time) AS last FROM ({self._labelled([])})").to_pylist()[0]
        if bounds["first"] is None:
            raise SourceError(
                f"no row of table {self.rows.source!r} has a label in {self.labels.source!r}; ingest labels before training"
            )
        return int(bounds["first"]), int(bounds["last"])

    def labelled(self, start: int, end: int) -> Labelled:
        """The labelled rows of [start, end).

        Raises:
            SchemaError: An id has several labels, or a label does not fit the task.
        """
        columns = self._row_columns()
        picked = ", ".join(f"r.{quoted(c)} AS {quoted(c)}" for c in columns)
        order = f"ORDER BY time, {quoted(self.model.rows.id)}"
        query = f"SELECT * FROM ({self._labelled([picked])}) WHERE time >= {start} AND time < {end} {order}"
        found = self._ask(query)
        self._check_ids(found)
        task, label = self._labels(found["label"])
        time, usable, seen = (found[n].to_numpy() for n in ("time", "usable", "seen"))
        return Labelled(found.select(columns), time, label, usable, seen, task)

    def features(self, rows: pa.Table, *, knowledge: bool = True) -> pa.Table:
        """The contract's features of ``rows``, in its order; see :func:`asof.offline.retrieve`."""
        from asof.offline import retrieve

        read = {v.source.name for v in self.contract.views}
        versions = {name: version for name, version in self.versions.items() if name in read}
        found = retrieve(
            self.contract, rows, at=self.model.rows.event_time, repo=self.repo, knowledge=knowledge, versions=versions
        )
        return found.select(list(self.contract.feature_names))

    def _labelled(self, picked: Sequence[str]) -> str:
        """SQL for the labelled rows: the ``picked`` columns, then label (double, or a class as text), and time, usable and seen (microseconds)."""
        rows, apart = self.model.rows, self.rows.source != self.labels.source
        owner = "l" if apart else "r"
        moment = f"epoch_us(r.{quoted(rows.event_time)})"
        times = (self.declaration.timestamp_field, self.declaration.knowledge_field)
        seen = f"greatest({', '.join(f'epoch_us({owner}.{quoted(c)})' for c in times if c)})"
        usable = seen if apart else f"{moment} + {self.model.delay}"
        if rows.label_time:
            usable = f"epoch_us({owner}.{quoted(rows.label_time)})"
        label = f"{owner}.{quoted(rows.label)}"
        there = f"{label} IS NOT NULL AND NOT isnan(coalesce(TRY_CAST({label} AS DOUBLE), -1))"
        dtype = "VARCHAR" if self.model.task.kind == "multiclass" else "DOUBLE"
        columns = [
            *picked,
            f"{moment} AS time",
            f"TRY_CAST({label} AS {dtype}) AS label",
            f"{usable} AS usable",
            f"{seen} AS seen",
        ]
        join = f" JOIN {self.labels.scan} l USING ({quoted(rows.id)})" if apart else ""
        return f"SELECT {', '.join(columns)} FROM {self.rows.scan} r{join} WHERE {there}"

    def _labels(self, column: pa.ChunkedArray) -> tuple[Task, npt.NDArray[np.float64]]:
        """The task with its classes, and the labels as numbers."""
        task = self.model.task
        if isinstance(task, Multiclass):
            named = Multiclass(task.classes or tuple(sorted(pc.unique(column).to_pylist())))
            label = pc.index_in(column, value_set=pa.array(named.classes)).cast(pa.float64()).to_numpy()
            self._refuse(np.isnan(label), f"none of the classes {', '.join(named.classes)}")
            return named, label
        label = np.asarray(column.to_numpy(), np.float64)
        if isinstance(task, Binary):
            self._refuse((label != 0) & (label != 1), "neither 0 nor 1")
        elif isinstance(task, Ranking):
            self._refuse(
                (label != np.rint(label)) | (label < 0) | (label >= GRADES), f"no whole numbers from 0 to {GRADES - 1}"
            )
        elif isinstance(task, Regression) and task.loss in COUNTS:
            self._refuse(~(np.isfinite(label) & (label >= 0)), "no finite numbers from 0 on")
        else:
            self._refuse(~np.isfinite(label), "no finite numbers")
        return task, label

    def _refuse(self, wrong: npt.NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            raise SchemaError(
                f"column {self.model.rows.label!r} of table {self.labels.source!r} has labels that are {what} ({int(wrong.sum()):,} of {len(wrong):,}), "
                f"but model {self.model.name!r} has a {self.model.task.kind} task"
            )

    def _check_ids(self, found: pa.Table) -> None:
        ids = found[self.model.rows.id]
        if pc.count_distinct(ids).as_py() < len(ids):
            raise SchemaError(
                f"table {self.labels.source!r} has several rows for one {self.model.rows.id!r}, expected one label for each"
            )

    def _ask(self, query: str) -> Any:
        tables = " and ".join(dict.fromkeys((self.rows.source, self.labels.source)))
        connection = EngineSettings.load(self.repo).connect(self.repo)
        try:
            with asking(f"the labelled rows of {tables}"):
                return connection.sql(query).to_arrow_table()
        finally:
            connection.close()


def _check_categories(model: Model, contract: Contract) -> None:
    dtypes = {f.name: f.dtype for f in contract.features}
    for name in model.categories:
        if name not in dtypes:
            raise NotFoundError(f"feature of service {contract.service!r}", name, dtypes)
        if dtypes[name] not in CATEGORY_TYPES:
            raise SettingsError(
                f"model {model.name!r}: got {name!r} of type {dtypes[name]} as a category, expected one of {', '.join(sorted(CATEGORY_TYPES))}"
            )


def matrix(
    contract: Contract, features: pa.Table, vocabularies: Mapping[str, Vocabulary] | None = None
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Names and values float64[n, F] of the features that enter a model, in the contract's order; NaN is missing.

    Args:
        contract: The contract.
        features: Its features, n rows.
        vocabularies: Categorical feature -> the codes of its values; other features enter if they are numeric.

    Raises:
        SchemaError: No feature enters.
    """
    categories = vocabularies or {}
    names = tuple(f.name for f in contract.features if f.numeric or f.name in categories)
    if not names:
        raise SchemaError(
            f"feature service {contract.service!r} has no numeric feature and model no category, so there is nothing to learn from"
        )
    columns = [
        codes(features[name].to_pylist(), categories[name]) if name in categories else _numbers(features[name])
        for name in names
    ]
    return names, np.ascontiguousarray(np.stack(columns, axis=1))


def vocabularies(model: Model, contract: Contract, features: pa.Table, rows: pa.Array) -> dict[str, list[Any]]:
    """Categorical feature of ``model`` -> its values in those rows of ``features`` that ``rows`` (bool[n]) chooses, the most frequent first."""
    dtypes = {f.name: f.dtype for f in contract.features}
    return {name: vocabulary(features[name].filter(rows).to_pylist(), dtypes[name]) for name in model.categories}


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values = column.cast(pa.float64()).to_numpy()
    return np.where(np.isnan(values), np.nan, values)
