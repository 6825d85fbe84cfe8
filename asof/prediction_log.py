"""Writes and reads the prediction log: requests, features and predictions, in Parquet files by model and hour.

Serving writes the log, monitoring reads it. Files are ``<predictions>/<model>/hour=<YYYY-MM-DDTHH>/part-<id>.parquet``; the
hour is the UTC hour of the row's moment ``at`` (in a replay, a moment of the past). A file is written under another name and
renamed when it is complete, and never changes after that, so readers need no lock and a crash leaves no partial file. The
columns are::

    request_id, row          the request and the 0-based position in it
    model, model_version     the bundle, and the fingerprint of its contract
    fingerprint
    served_at                when the prediction was made, by the server's clock
    at                       the moment that the features were read for
    as_of                    the moment of the values: ``at``, or the watermark of a stream if that was earlier
    score, decision          the prediction: the number that stands for it, and the decision if the model makes one
    class                    the most probable class, of a model of classes
    output.<name>            each number that the model gave, if there are several: probabilities of classes, quantiles
    key.<name>               the entity keys                              as declared
    request.<name>           the request fields                           as declared
    feature.<name>           the vector, null for missing                 as declared
    status.<name>            uint8 of each feature: PRESENT 0, NULL 1, OUTSIDE_MAX_AGE 2, NOT_FOUND 3, NOT_KEPT 4
    event_time.<view alias>  newest event or row of the view that was known at ``at``; null if there was none
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from asof.atomic_file import replacing
from asof.contract import Contract
from asof.contract.arrow_types import COLUMN_TYPES
from asof.instants import SECOND, from_micros, to_micros
from asof.task import BINARY, Multiclass, Task

MOMENT = pa.timestamp("us", tz="UTC")
HOUR = 3_600 * SECOND

_log = logging.getLogger("asof.prediction_log")

_AS_TEXT = frozenset({"json", "pdfbytes", "imagebytes"})
"""Types that the log keeps as text although they have an Arrow type."""

_NUMPY: dict[str, Any] = {
    "int32": np.int32, "int64": np.int64, "float32": np.float32, "float64": np.float64, "bool": np.bool_,
}  # fmt: skip

_HEAD = (
    ("request_id", pa.string()), ("row", pa.int32()), ("model", pa.string()), ("model_version", pa.string()),
    ("fingerprint", pa.string()), ("served_at", MOMENT), ("at", MOMENT), ("as_of", MOMENT), ("score", pa.float64()),
    ("decision", pa.bool_()),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """The n rows of one answered request.

    Attributes:
        request_id: As given, or generated.
        served_at: Microseconds, wall clock.
        at: ``int64[n]`` microseconds, the moment of each row.
        as_of: ``int64[n]`` microseconds, the moment whose stored features were seen, see :class:`asof.online.Vectors`.
        keys: Key -> n values.
        request: Request field -> n values.
        vector: ``float64[n, F]``, one column for each feature of the service; NaN for missing and for non-numeric features.
        objects: Non-numeric feature -> n values.
        statuses: ``uint8[n, F]``.
        event_times: ``int64[n, V]`` microseconds, a column for each view; -1 for none.
        outputs: ``float64[n, K]``, what the model gave.
    """

    request_id: str
    served_at: int
    at: NDArray[np.int64]
    as_of: NDArray[np.int64]
    keys: Mapping[str, Sequence[Any]]
    request: Mapping[str, Sequence[Any]]
    vector: NDArray[np.float64]
    objects: Mapping[str, Sequence[Any]]
    statuses: NDArray[np.uint8]
    event_times: NDArray[np.int64]
    outputs: NDArray[np.float64]


def arrow_type(dtype: str) -> pa.DataType:
    """The log's Arrow type for a feature type; unknown types are stored as text."""
    if dtype.startswith("array(") and dtype.endswith(")"):
        return pa.list_(arrow_type(dtype[6:-1]))
    return pa.string() if dtype in _AS_TEXT else COLUMN_TYPES.get(dtype, pa.string())


def output_columns(task: Task) -> tuple[str, ...]:
    """The columns of the log that hold the numbers which a model of this task gave."""
    return ("score",) if len(task.outputs) == 1 else tuple(f"output.{name}" for name in task.outputs)


def schema(contract: Contract, task: Task = BINARY) -> pa.Schema:
    """The columns of a log of predictions under ``contract`` by a model of ``task``."""
    columns = [*_HEAD]
    columns += [("class", pa.string())] if isinstance(task, Multiclass) else []
    columns += [(name, pa.float64()) for name in output_columns(task) if name != "score"]
    columns += [(f"key.{f.name}", arrow_type(f.dtype)) for f in contract.keys]
    columns += [(f"request.{f.name}", arrow_type(f.dtype)) for f in contract.request_fields]
    columns += [(f"feature.{f.name}", arrow_type(f.dtype)) for f in contract.features]
    columns += [(f"status.{f.name}", pa.uint8()) for f in contract.features]
    columns += [(f"event_time.{v.alias}", MOMENT) for v in contract.views]
    return pa.schema(columns)


def to_table(
    contract: Contract,
    model: str,
    version: str,
    entries: Sequence[Entry],
    task: Task = BINARY,
    threshold: float | None = None,
) -> pa.Table:
    """The rows of the entries as a table of the log, in their order.

    Args:
        contract: The model's contract.
        model: Name of the model.
        version: Its version.
        entries: The entries.
        task: What the model predicts.
        threshold: The lowest score whose decision is positive; None for a model that decides nothing.
    """
    counts = [len(e.at) for e in entries]
    ids = [e.request_id.encode() for e, n in zip(entries, counts, strict=True) for _ in range(n)]
    served = np.repeat(np.array([e.served_at for e in entries], dtype=np.int64), counts)
    positions = _joined([np.arange(n, dtype=np.int32) for n in counts], np.int32)
    columns: list[pa.Array] = [
        _texts(ids, pa.string()),
        _plain(positions, pa.int32()),
        *(_texts([text.encode()] * len(ids), pa.string()) for text in (model, version, contract.fingerprint)),
        _moments(served),
        _moments(_joined([e.at for e in entries])),
        _moments(_joined([e.as_of for e in entries])),
        *prediction_columns(
            task, _stacked([e.outputs for e in entries], len(task.outputs), np.float64), threshold
        ).values(),
    ]
    columns += [_listed([e.keys[f.name] for e in entries], f.dtype) for f in contract.keys]
    columns += [_listed([e.request[f.name] for e in entries], f.dtype) for f in contract.request_fields]
    columns += _features(contract, entries)
    return pa.Table.from_arrays(columns, schema=schema(contract, task))


def prediction_columns(task: Task, outputs: NDArray[np.float64], threshold: float | None) -> dict[str, pa.Array]:
    """The columns of the log that say what the model gave, in their order.

    Args:
        task: What the model predicts.
        outputs: ``float64[n, K]``, the numbers that it gave.
        threshold: The lowest score whose decision is positive; None for a model that decides nothing.
    """
    scores = np.ascontiguousarray(task.score(outputs))
    undecided = np.ones(len(scores), bool) if threshold is None else None
    made = scores >= (np.inf if threshold is None else threshold)
    columns = {"score": _plain(scores, pa.float64()), "decision": _plain(made, pa.bool_(), undecided)}
    if isinstance(task, Multiclass):
        columns["class"] = _texts([name.encode() for name in task.chosen(outputs)], pa.string())
    several = enumerate(output_columns(task)) if len(task.outputs) > 1 else ()
    return columns | {name: _plain(np.ascontiguousarray(outputs[:, i]), pa.float64()) for i, name in several}


def hour_name(at: int) -> str:
    """The folder of the moment ``at`` (microseconds), such as ``hour=2018-08-08T13``."""
    return f"hour={from_micros(at).isoformat()[:13]}"


def write(predictions: Path, model: str, table: pa.Table) -> list[Path]:
    """Add ``table`` to the log of ``model``: one new file for each hour of its rows.

    All files are complete before the first is renamed, so that a full disk leaves none of them.

    Raises:
        OSError: The disk is full or not writable.
    """
    hours = _integers(table["at"]) // HOUR
    written: list[Path] = []
    with ExitStack() as files:  # each file gets its name when the stack is closed
        for hour in np.unique(hours).tolist():
            name = f"part-{time.time_ns() // 1_000}-{os.getpid()}-{secrets.token_hex(4)}.parquet"
            written.append(predictions / model / hour_name(hour * HOUR) / name)
            work = files.enter_context(replacing(written[-1]))
            pq.write_table(table.filter(_plain(hours == hour, pa.bool_())), work, compression="zstd")
    return written


def scan(
    predictions: Path,
    model: str,
    start: int,
    end: int,
    columns: Sequence[str] | None = None,
    report: Callable[[str], None] = _log.warning,
) -> Iterator[pa.Table]:
    """The logged rows whose moment ``at`` lies in ``[start, end)``, file by file in order of hour.

    Args:
        predictions: Folder of all prediction logs.
        model: Name of the model.
        start: First moment, microseconds.
        end: Moment after the last, microseconds.
        columns: Columns to read; by default all that a file has.
        report: Called with one line for each file that cannot be used (truncated, not a log, or without a requested column).

    Yields:
        One table for each file that has such rows; files of other model versions may have other features.
    """
    for path in files(predictions, model, start, end):
        try:
            table = _read(path, start, end, columns)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            report(f"{path} is left out of the prediction log: {' '.join(str(error).split())}")
            continue
        if table.num_rows:
            yield table


def files(predictions: Path, model: str, start: int, end: int) -> list[Path]:
    """The files whose hour overlaps ``[start, end)``, in order of hour."""
    first, last = hour_name(start), hour_name(max(start, end - 1))
    folders = sorted(p for p in (predictions / model).glob("hour=*") if first <= p.name <= last)
    listed = (sorted(p for p in f.iterdir() if not p.name.startswith(".")) for f in folders)
    return list(chain.from_iterable(listed))


def remove_leftovers(predictions: Path, model: str, older_than: timedelta = timedelta(hours=1)) -> int:
    """Delete unfinished files of killed writers; files younger than ``older_than`` may still be in use. Returns their number."""
    limit, removed = time.time() - older_than.total_seconds(), 0
    for path in (predictions / model).glob("hour=*/.writing-*"):
        try:
            if path.stat().st_mtime < limit:
                path.unlink()
                removed += 1
        except OSError:
            continue
    return removed


def _read(path: Path, start: int, end: int, columns: Sequence[str] | None) -> pa.Table:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if lacking := [name for name in ("at", *(columns or ())) if name not in names]:
            raise KeyError(f"it has no columns {lacking}")
        wanted = None if columns is None else list(dict.fromkeys([*columns, "at"]))
        table = file.read(columns=wanted, use_threads=False)
    at = pc.cast(table["at"], pa.int64())
    kept = table.filter(pc.and_(pc.greater_equal(at, start), pc.less(at, end)))
    return kept if columns is None else kept.select(list(columns))


def _features(contract: Contract, entries: Sequence[Entry]) -> list[pa.Array]:
    width = len(contract.features)
    vector = _stacked([e.vector for e in entries], width, np.float64)
    statuses = _stacked([e.statuses for e in entries], width, np.uint8)
    times = _stacked([e.event_times for e in entries], len(contract.views), np.int64)
    values = [
        _numbers(vector[:, i], f.dtype) if f.numeric else _listed([e.objects[f.name] for e in entries], f.dtype)
        for i, f in enumerate(contract.features)
    ]
    return [
        *values,
        *(_plain(statuses[:, i], pa.uint8()) for i in range(width)),
        *(_moments(times[:, i], missing=-1) for i in range(len(contract.views))),
    ]


def _joined(parts: Sequence[NDArray[Any]], dtype: Any = np.int64) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)


def _stacked(parts: Sequence[NDArray[Any]], width: int, dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty((0, width), dtype)


def _moments(micros: NDArray[np.int64], missing: int | None = None) -> pa.Array:
    return _plain(micros, MOMENT, None if missing is None else micros == missing)


def _numbers(values: NDArray[np.float64], dtype: str) -> pa.Array:
    missing = np.isnan(values)
    filled = np.where(missing, 0.0, values)
    return _plain(filled.astype(_NUMPY[dtype]), arrow_type(dtype), missing)


def _listed(parts: Iterable[Sequence[Any]], dtype: str) -> pa.Array:
    """Python values, None for missing, as a column of the log."""
    values = list(chain.from_iterable(parts))
    missing = np.array([v is None for v in values], dtype=bool)
    if dtype in _NUMPY:
        return _plain(np.array([0 if v is None else v for v in values], _NUMPY[dtype]), arrow_type(dtype), missing)
    if dtype == "unixtimestamp":
        micros = [0 if v is None else to_micros(v) for v in values]
        return _plain(np.array(micros, np.int64), MOMENT, missing)
    if dtype.startswith("array("):
        return pa.array(values, arrow_type(dtype))
    kind = pa.binary() if dtype == "bytes" else pa.string()
    return _texts([b"" if v is None else v if isinstance(v, bytes) else str(v).encode() for v in values], kind, missing)


# pa.array() and to_numpy() import pandas to check for its types. A serving worker does not need pandas, whose import takes a
# second, so columns are built from buffers.


def _integers(moments: pa.ChunkedArray) -> NDArray[np.int64]:
    """A column of moments without nulls as microseconds."""
    parts = [np.frombuffer(c.buffers()[1], np.int64, len(c), 8 * c.offset) for c in moments.chunks if len(c)]
    return _joined(parts)


def _plain(values: NDArray[Any], kind: pa.DataType, missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers, moments or bools as a column."""
    data = _bits(values) if kind == pa.bool_() else pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values), [_validity(missing), data])


def _texts(values: Sequence[bytes], kind: pa.DataType, missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Texts in UTF-8, or bytes, as a column."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [_validity(missing), pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _validity(missing: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return _bits(~missing) if missing is not None and missing.any() else None


def _bits(flags: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags.astype(bool), bitorder="little"))
