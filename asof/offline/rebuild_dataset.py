"""Rebuilds a dataset from the provenance in its metadata."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from asof.errors import SourceError
from asof.offline.out_of_core import GROUP_ROWS, retrieve_to
from asof.offline.provenance import EntityDigest, Provenance, files_digest
from asof.offline.sources import open_files
from asof.revision import code_revision

if TYPE_CHECKING:
    from asof.contract import Contract
    from asof.offline.duckdb_engine import EngineSettings

__all__ = ["Provenance", "Rebuilt", "rebuild"]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A rebuilt dataset.

    Attributes:
        path: The new file.
        identical: Whether its bytes equal those of the old file.
        provenance: What both were made from.
        code_revision: Current revision of the repo; compare it with that of the provenance where the bytes differ.
    """

    path: Path
    identical: bool
    provenance: Provenance
    code_revision: str | None


def rebuild(like: Path, path: Path, repo: Path, *, settings: EngineSettings | None = None) -> Rebuilt:
    """Rebuild the dataset ``like`` from the same entity rows, contract and table versions; rows that arrived since are not used.

    Args:
        like: A dataset that asof wrote.
        path: File to write.
        repo: The feature repo that holds its sources.
        settings: Engine settings; by default those of the repo.

    Raises:
        SourceError: ``like`` is no such dataset, or was changed; a version that it needs was cleaned away; a plain Parquet
            source, which has no versions, has changed since.
    """
    made = Provenance.read(like)
    contract = made.load_contract()
    _check_files(contract, made.files, repo)
    work = path.with_name(f".{path.name}.entities")
    try:
        _copy_entities(like, work, made)
        again = retrieve_to(
            path, contract, work, at=made.at, repo=repo, knowledge=made.knowledge, versions=made.tables, settings=settings,
            carried=made,
        )  # fmt: skip
    finally:
        work.unlink(missing_ok=True)
    return Rebuilt(path, filecmp.cmp(like, path, shallow=False), again, code_revision(repo))


def _check_files(contract: Contract, digests: Mapping[str, str], repo: Path) -> None:
    for view in contract.views:
        expected = digests.get(view.source.name)
        if expected is None:
            continue
        found = files_digest(open_files(view.source, repo))
        if found != expected:
            raise SourceError(
                f"source {view.source.name!r} is plain Parquet and has changed since the dataset was made: its SHA-256 was {expected[:12]} and is "
                f"{found[:12]}; restore its files, or keep the data in a Delta table, which has versions"
            )


def _copy_entities(like: Path, work: Path, made: Provenance) -> None:
    """Write the entity rows of a dataset to a file, after checking their digest."""
    digest = EntityDigest()
    work.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetFile(like) as file:
        schema = pa.schema([file.schema_arrow.field(n) for n in made.columns])
        with pq.ParquetWriter(work, schema) as writer:
            for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=list(made.columns)):
                rows = pa.Table.from_batches([batch]).select(list(made.columns))
                writer.write_table(rows.cast(schema))
                digest.update(rows.cast(schema))
    if digest.hexdigest() != made.entities:
        raise SourceError(
            f"{like} was changed after it was made: its rows are not those of its provenance; use an untouched copy"
        )
