"""Provenance of a dataset, stored in its Parquet metadata: contract, table versions, entity rows, code revision."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from asof.contract import Contract
from asof.errors import SourceError
from asof.offline.arrow_columns import joined
from asof.revision import code_revision
from asof.version import __version__

if TYPE_CHECKING:
    from asof.offline.retrieval import PreparedRetrieval
    from asof.offline.sources import SourceFiles

KEY = "asof.provenance"
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that determines a dataset's values.

    Attributes:
        service: Feature service.
        fingerprint: Fingerprint of its contract.
        contract: The contract itself, as JSON text.
        tables: Source name -> version, for Delta tables.
        files: Source name -> SHA-256 of its files, for plain Parquet, which has no versions; see :func:`files_digest`.
        at: Column of the rows' moments.
        knowledge: Whether rows were hidden until their knowledge time.
        rows: Number of entity rows.
        columns: Their columns.
        entities: SHA-256 over them.
        code_revision: Git commit of the feature repo; None where there is none.
        asof: Version of asof.
        format: Version of this layout.
    """

    service: str
    fingerprint: str
    contract: str
    tables: Mapping[str, int]
    files: Mapping[str, str]
    at: str
    knowledge: bool
    rows: int
    columns: tuple[str, ...]
    entities: str
    code_revision: str | None
    asof: str = __version__
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        prepared: PreparedRetrieval,
        at: str,
        repo: Path,
        *,
        knowledge: bool,
        columns: list[str],
        digest: EntityDigest,
    ) -> Self:
        """The provenance of a new dataset."""
        contract = prepared.contract
        return cls(
            service=contract.service,
            fingerprint=contract.fingerprint,
            contract=contract.to_json(),
            tables=prepared.versions,
            files={f.source: files_digest(f) for f in prepared.files.values() if f.version is None},
            at=at,
            knowledge=knowledge,
            rows=digest.rows,
            columns=tuple(columns),
            entities=digest.hexdigest(),
            code_revision=code_revision(repo),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the provenance from a dataset's metadata.

        Raises:
            SourceError: The file cannot be read, or was not written by asof.
        """
        try:
            metadata = pq.read_schema(path).metadata or {}
            text = metadata.get(KEY.encode()) or (pq.read_metadata(path).metadata or {}).get(KEY.encode())
            payload = json.loads(text) if text else None
        except (OSError, pa.ArrowInvalid, ValueError) as error:
            raise SourceError(f"{path} is no readable dataset ({str(error).partition(chr(10))[0]})") from None
        if payload is None or payload.get("format") != FORMAT:
            raise SourceError(
                f"{path} carries no provenance that this asof understands; expected a file written by asof dataset"
            )
        return cls(**{**payload, "columns": tuple(payload["columns"])})

    def to_json(self) -> str:
        """The provenance as JSON text; equal provenance is equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    def load_contract(self) -> Contract:
        """The contract that the dataset was made under."""
        return Contract.from_json(self.contract)


class EntityDigest:
    """SHA-256 over entity rows, given in batches of equal size; how a batch is chunked does not matter."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def update(self, rows: pa.Table) -> None:
        """Add the next rows."""
        self.rows += rows.num_rows
        for name in rows.column_names:
            self._hash.update(f"{name}:{rows[name].type}:".encode())
            self._hash.update(_column_bytes(rows[name]))

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


def _column_bytes(column: pa.ChunkedArray) -> bytes:
    array = joined(column)
    fixed = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if pa.types.is_timestamp(array.type):
        array, fixed = array.cast(pa.int64()), True
    if not fixed:
        return repr(array.to_pylist()).encode()
    present = array.is_valid().to_numpy(zero_copy_only=False)
    values: Any = array.fill_null(0).to_numpy(zero_copy_only=False) if array.null_count else array.to_numpy()
    return bytes(present.tobytes() + values.tobytes())


def files_digest(files: SourceFiles) -> str:
    """SHA-256 of the content of a Parquet file; of several, of their sorted names and digests.

    Names are relative to the innermost folder that holds all of them. A file is not read again in this process while its inode, size and
    modification time stay.

    Raises:
        SourceError: A file cannot be read.
    """
    try:
        found = {path: _content_digest(path, *_identity(path)) for path in files.paths}
    except OSError as error:
        raise SourceError(f"source {files.source!r}: {error.filename} cannot be read ({error.strerror})") from None
    if len(found) == 1:
        return next(iter(found.values()))
    root = os.path.commonpath([Path(path).parent for path in found]) if found else ""
    listed = sorted((os.path.relpath(path, root), digest) for path, digest in found.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _identity(path: str) -> tuple[int, int, int]:
    stat = Path(path).stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=100_000)
def _content_digest(path: str, inode: int, size: int, modified: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
