"""Datasets that may be larger than memory: written row group by row group, computed by sets of keys.

Each view's values are computed for one set of keys after another (by hash; the memory limit decides how many sets), and
spilled together with the numbers of their rows. DuckDB sorts them back into row order, within its memory limit, while the
file is written. If everything fits, there is one set. The bytes of the file do not depend on the number of sets.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asof.atomic_file import replacing
from asof.errors import SchemaError, SourceError, TableError
from asof.offline.duckdb_engine import Engine, EngineSettings, asking, batches, path_literal, quoted
from asof.offline.provenance import KEY, EntityDigest, Provenance
from asof.offline.retrieval import PreparedRetrieval, assemble, moments
from asof.offline.source_rows import EntityRows, KeyPartition, key_sql, stored_keys
from asof.offline.view_values import view_values

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from asof.contract import Contract, View
    from asof.offline.sources import SourceFiles

GROUP_ROWS = 131_072
"""Rows of a row group."""

_WORKING_BYTES = 96
"""Bytes per row, beside its columns, that coding, sorting and searching take at their peak."""
_SHARE = 4
"""One set of keys may take this part of the memory limit; the rest is for DuckDB, results and the file."""
_ROW = "asof row"
"""Column of row numbers in what is spilled."""


def retrieve_to(
    path: Path,
    contract: Contract,
    entity_rows: pa.Table | Path,
    *,
    at: str,
    repo: Path,
    knowledge: bool = True,
    versions: Mapping[str, int] | None = None,
    settings: EngineSettings | None = None,
    carried: Provenance | None = None,
) -> Provenance:
    """As :func:`asof.offline.retrieve`, into a Parquet file that appears whole or not at all.

    Args:
        path: File to write; one that is there is replaced.
        contract: The features to return.
        entity_rows: The rows, or a Parquet file of them, which is then not read into memory as a whole.
        at: Column of the rows' moments.
        repo: Folder that relative source paths start at.
        knowledge: Whether rows are hidden until their knowledge time.
        versions: Source name -> version of its Delta table.
        settings: Engine settings; by default those of the repo.
        carried: Provenance to write instead of a new one, for a dataset that is made again from it.

    Returns:
        The provenance that the file carries in its metadata.

    Raises:
        SchemaError, SourceError, NotFoundError: As ``retrieve``.
        TableError: The file cannot be written.
    """
    chosen = settings or EngineSettings.load(repo)
    rows = EntityInput.of(entity_rows)
    prepared = PreparedRetrieval.of(contract, rows.schema, at, repo, versions)
    names = list(rows.schema.names)
    with ExitStack() as stack:
        work = stack.enter_context(_work_folder(chosen, repo))
        engine = stack.enter_context(closing(Engine(chosen, repo)))
        answers = [_answers(v, prepared, rows, at, engine, work, chosen.memory, knowledge) for v in contract.views]
        return _write(
            path,
            rows.groups(),
            lambda digest: (
                carried or Provenance.of(prepared, at, repo, knowledge=knowledge, columns=names, digest=digest)
            ),
            contract,
            answers,
        )


@dataclass(frozen=True)
class EntityInput:
    """Entity rows, in memory or in a Parquet file."""

    table: pa.Table | None
    path: Path | None
    schema: pa.Schema
    count: int

    @classmethod
    def of(cls, given: pa.Table | Path) -> EntityInput:
        """Rows from a table or a file.

        Raises:
            SchemaError: Parquet cannot hold a column of the table.
            SourceError: The file cannot be read.
        """
        if isinstance(given, pa.Table):
            table = _as_kept(given.replace_schema_metadata(None))
            return cls(table, None, table.schema, table.num_rows)
        try:
            footer = pq.read_metadata(given)
            return cls(None, given, pq.read_schema(given).remove_metadata(), footer.num_rows)
        except (OSError, pa.ArrowInvalid) as error:
            reason = str(error).partition("\n")[0]
            raise SourceError(f"{given} is no readable Parquet file of entity rows ({reason})") from None

    def groups(self) -> Iterator[pa.Table]:
        """The rows in order, :data:`GROUP_ROWS` at a time."""
        if self.table is not None:
            yield from (self.table.slice(i, GROUP_ROWS) for i in range(0, max(self.count, 1), GROUP_ROWS))
            return
        try:
            found = pq.ParquetFile(self.path).iter_batches(batch_size=GROUP_ROWS)
            yield from _exactly(GROUP_ROWS, found, self.schema)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise SourceError(
                f"the entity rows in {self.path} cannot be read ({reason}); write the file again"
            ) from None

    def part(
        self, names: Sequence[str], hashed: str | None, partition: KeyPartition, engine: DuckDBPyConnection
    ) -> pa.Table:
        """The columns ``names`` of the rows of one set of keys, and their row numbers under :data:`_ROW`."""
        columns = ", ".join(quoted(n) for n in dict.fromkeys(names))
        where = f" WHERE coalesce({hashed}, 0) % {partition.partitions} = {partition.number}" if hashed else ""
        if self.table is None:
            scan = f"read_parquet({path_literal(str(self.path))}, hive_partitioning = false)"
            with asking(f"the entity rows in {self.path}"):
                return engine.sql(
                    f"SELECT {columns}, file_row_number AS {quoted(_ROW)} FROM {scan}{where}"
                ).to_arrow_table()
        numbered = self.table.select(list(dict.fromkeys(names))).append_column(_ROW, pa.array(np.arange(self.count)))
        with asking("the entity rows"):
            engine.register("asked_rows", numbered)
            found = engine.sql(f"SELECT * FROM asked_rows{where}").to_arrow_table()
            engine.unregister("asked_rows")  # after an error the connection is closed
        return found


def _as_kept(table: pa.Table) -> pa.Table:
    """The table in the types that it would be read back with; Parquet has no seconds, for example, but milliseconds.

    Otherwise a dataset that is made again would differ from the first one, whose rows came in other types.
    """
    file = io.BytesIO()
    try:
        pq.ParquetWriter(file, table.schema).close()
    except pa.ArrowException as error:
        raise SchemaError(f"entity rows cannot be kept in Parquet ({str(error).partition(chr(10))[0]})") from None
    kept = pq.read_schema(file).remove_metadata()
    return table if str(kept) == str(table.schema) else table.cast(kept)


def _answers(
    view: View,
    prepared: PreparedRetrieval,
    rows: EntityInput,
    at: str,
    engine: Engine,
    work: Path,
    memory: int,
    knowledge: bool,
) -> Iterator[Mapping[str, pa.Array]]:
    """The view's features for each group of rows, in order; computed and spilled now, read as the groups are written."""
    files, wanted = prepared.files[view.alias], prepared.contract.stored(view)
    parts = _parts(view, files, wanted, rows, memory)
    hashed = _hash_of_keys(view, files, rows, engine.connection) if parts > 1 else None
    folder = work / uuid.uuid4().hex
    folder.mkdir()
    for number in range(parts):
        partition = KeyPartition(number, parts)
        found = rows.part([at, *(k.request for k in view.join_keys)], hashed, partition, engine.connection)
        if found.num_rows or not rows.count:
            entity_rows = EntityRows(found, moments(found, at))
            values = view_values(
                view,
                wanted,
                files,
                entity_rows,
                engine,
                knowledge=knowledge,
                partition=partition if parts > 1 else None,
            )
            _spill(pa.table({_ROW: found[_ROW], **values}), folder / f"{number}.parquet")
    return _in_row_order(folder, wanted, engine.connection, parts)


def _spill(table: pa.Table, path: Path) -> None:
    try:
        pq.write_table(table, path, compression="lz4")
    except OSError as error:
        raise TableError(
            f"{path.parent} cannot be written ({error.strerror or error}); choose another temp_directory"
        ) from None


def _parts(view: View, files: SourceFiles, wanted: Sequence[str], rows: EntityInput, memory: int) -> int:
    """How many sets of keys the view must be answered in; a view without keys has one key, so it is one set."""
    if not view.join_keys:
        return 1
    columns = view.event_columns if view.windowed else wanted
    stored = files.bytes_of([view.source.column(c) for c in columns]) + files.rows * _WORKING_BYTES
    asked = rows.count * (_WORKING_BYTES + 16 * len(wanted))
    return max(1, -(-(stored + asked) * _SHARE // memory))


def _hash_of_keys(view: View, files: SourceFiles, rows: EntityInput, engine: DuckDBPyConnection) -> str:
    """SQL that hashes entity keys as the source's keys are hashed: after a cast to their types."""
    stored = key_sql(stored_keys(view, files), files, engine)
    kinds = ", ".join(f"typeof({s})" for s in stored)
    with asking(f"source {files.source!r}"):
        (types,) = engine.sql(f"SELECT {kinds} FROM {files.scan} LIMIT 1").fetchall()
    casts = [f"TRY_CAST({quoted(k.request)} AS {kind})" for k, kind in zip(view.join_keys, types, strict=True)]
    return f"hash({', '.join(casts)})"


def _in_row_order(
    folder: Path, wanted: Sequence[str], engine: DuckDBPyConnection, parts: int
) -> Iterator[Mapping[str, pa.Array]]:
    spilled, what = [str(p) for p in sorted(folder.iterdir())], "what was computed and spilled"
    if parts == 1:
        found: Iterator[pa.RecordBatch] = pq.ParquetFile(spilled[0]).iter_batches(batch_size=GROUP_ROWS)
    else:
        paths = ", ".join(path_literal(p) for p in spilled)
        columns = ", ".join(quoted(n) for n in wanted)
        query = f"SELECT {columns} FROM read_parquet([{paths}], hive_partitioning = false) ORDER BY {quoted(_ROW)}"
        with asking(what):
            found = batches(engine.cursor().sql(query).to_arrow_reader(GROUP_ROWS), what)
    schema = pa.schema([f for f in pq.read_schema(spilled[0]) if f.name != _ROW])
    for group in _exactly(GROUP_ROWS, found, schema):
        yield {name: group[name].combine_chunks() for name in wanted}


def _exactly(size: int, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of ``batches`` as tables of ``size`` rows (the last may be shorter), in the types of ``schema``."""
    waiting: list[pa.Table] = []
    count = 0
    for batch in batches:
        waiting.append(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
        count += batch.num_rows
        while count >= size:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, size).combine_chunks()
            waiting, count = [whole.slice(size)], count - size
    if count or not waiting:
        yield pa.concat_tables([schema.empty_table(), *waiting]).combine_chunks()


def _write(
    path: Path,
    groups: Iterator[pa.Table],
    provenance: Callable[[EntityDigest], Provenance],
    contract: Contract,
    answers: Sequence[Iterator[Mapping[str, pa.Array]]],
) -> Provenance:
    digest = EntityDigest()
    try:
        with replacing(path) as work, ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for group in groups:
                table = assemble(
                    contract, group, {v.alias: next(a) for v, a in zip(contract.views, answers, strict=True)}
                )
                writer = writer or stack.enter_context(pq.ParquetWriter(work, table.schema, compression="zstd"))
                writer.write_table(table, row_group_size=GROUP_ROWS)
                digest.update(group)
            made = provenance(digest)
            if writer is not None:
                writer.add_key_value_metadata({KEY: made.to_json()})
    except OSError as error:
        raise TableError(f"{path} cannot be written ({error.strerror or error}); choose another place") from None
    return made


@contextmanager
def _work_folder(settings: EngineSettings, repo: Path) -> Iterator[Path]:
    root = repo / settings.temp_directory if settings.temp_directory else None
    try:
        if root is not None:
            root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="asof-", dir=root))
    except OSError as error:
        where = root or tempfile.gettempdir()
        raise TableError(
            f"{where} cannot be written ({error.strerror or error}); choose another temp_directory"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
