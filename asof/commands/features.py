"""``asof materialize``, ``asof get`` and ``asof dataset``: write and read online values, and build datasets."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asof.cli import repo_option
from asof.console import emit, table
from asof.contract import Contract, Field, View
from asof.errors import CheckFailedError, NotFoundError, RequestError, SourceError, UsageError
from asof.feast.calls import feast_call
from asof.instants import format_moment, from_micros, parse_moment
from asof.repo import Repo
from asof.tables import reading
from asof.tables.conversion import json_array

if TYPE_CHECKING:
    from asof.feast.compute_engine import KnownLater

FILE = click.Path(path_type=Path)

WIDEST = 72
"""Characters of a value in the table of `asof get`."""

_LIST = re.compile(r"(?:array|set)\((.*)\)")

STATUS_WORDS = ("present", "null", "outside max age", "not found", "not kept")


@dataclass(frozen=True)
class MaterializeSpan:
    """The event times to materialize of one view: microseconds, both ends included."""

    view: View
    start: int
    end: int


@click.command()
@click.argument("names", metavar="[VIEW...]", nargs=-1)
@click.option(
    "--from", "start", metavar="TIME", help="First event time; by default the earliest that a read at --to can use."
)
@click.option("--to", "end", metavar="TIME", help="Last event time; by default now.")
@click.pass_context
def materialize(ctx: click.Context, names: tuple[str, ...], start: str | None, end: str | None) -> None:
    """Write values from the tables into the online store.

    For windowed views the events are written. By default covers everything that a read at --to or later can use, late rows
    included: the longest window of a windowed view, else the ttl, else all rows. Repeating it changes nothing. Rows that happened
    before --to and became known after it are left out and counted.

    Example: asof materialize --to 2018-08-08
    """
    repo = Repo.open(repo_option(ctx))
    last = time.time_ns() // 1_000 if end is None else parse_moment(end)
    with feast_call("reading the registry", repo=repo.path):
        views = _chosen(repo.views(), names)
    spans = [
        MaterializeSpan(view, _start(view, last) if start is None else parse_moment(start), last) for view in views
    ]
    if wrong := [s for s in spans if s.start > s.end]:
        raise UsageError(
            f"--from {format_moment(wrong[0].start)} is after --to {format_moment(last)}; expected an earlier time"
        )
    done = _materialize(repo, spans)
    rows = [(s.view.name, format_moment(s.start), format_moment(s.end), seconds) for s, seconds, _ in done]
    payload = [dict(zip(("view", "from", "to", "seconds"), row, strict=True)) for row in rows]
    for entry, (_, _, later) in zip(payload, done, strict=True):
        entry["known_later"] = later.rows if later else 0
    told = [f"{x}; to write them: asof materialize {x.view} --to {format_moment(x.end)}" for _, _, x in done if x]
    emit({"views": payload}, "\n".join([table(("view", "from", "to", "seconds"), rows), *told]))


@click.command()
@click.argument("service", metavar="SERVICE")
@click.argument("pairs", metavar="KEY=VALUE...", nargs=-1)
@click.option("--at", metavar="TIME", help="Moment to read at; by default now.")
@click.pass_context
def get(ctx: click.Context, service: str, pairs: tuple[str, ...], at: str | None) -> None:
    """Show the online features of a service for one key.

    Shows value and status of every feature; --json shows long values whole. The pairs give the entity keys and the request
    fields, a list as a JSON array; a time field that is left out gets the value of --at. At a moment before the one that was materialized a value may be "not kept".

    Example: asof get ranking_v1 user_id=596 price=57.16 --at 2018-08-08T12:00:00Z
    """
    from asof.feature_vectors import assemble
    from asof.online import Reader

    repo = Repo.open(repo_option(ctx))
    moment = time.time_ns() // 1_000 if at is None else parse_moment(at)
    contract = repo.contract(service)
    keys, request = parse_pairs(contract, pairs, moment)
    reader = Reader(contract, repo.settings.online)
    try:
        vectors = reader.read(keys, np.array([moment], dtype=np.int64))
    finally:
        reader.close()
    values = assemble(contract, {pair: vectors.column(*pair) for pair in vectors.columns}, request)
    statuses = dict(zip(vectors.columns, vectors.statuses[0].tolist(), strict=True))
    rows = [(f.name, _plain(values[f.name][0], f.dtype), _status(f, statuses, values)) for f in contract.features]
    payload = {name: {"value": value, "status": status} for name, value, status in rows}
    text = table(("feature", "value", "status"), [(name, _shown(value), status) for name, value, status in rows])
    if "not kept" in {status for _, _, status in rows}:
        text += (
            f"\nnot kept: the online store was materialized for a later moment and does not have what was known at "
            f"{format_moment(moment)}; read at a later moment, or build a dataset (asof dataset)"
        )
    emit({"service": service, "at": format_moment(moment), "features": payload}, text)


@click.command()
@click.argument("service", metavar="[SERVICE]", required=False)
@click.option("--entities", metavar="FILE", type=FILE, help="Parquet or CSV file of keys, moments and request fields.")
@click.option("-o", "--output", metavar="FILE", type=FILE, required=True, help="Parquet file to write.")
@click.option(
    "--at", metavar="COLUMN", help="Column of the rows' moments; by default event_timestamp, or the only time column."
)
@click.option(
    "--like", metavar="FILE", type=FILE, help="Rebuild this earlier dataset from the same rows and table versions."
)
@click.pass_context
def dataset(
    ctx: click.Context, service: str | None, entities: Path | None, output: Path, at: str | None, like: Path | None
) -> None:
    """Write the features of a service for many rows.

    Each row gets the values known at its own moment. The file has exactly the given rows, in their order, and records what it
    was made from, so that --like can rebuild it byte by byte; exit code 1 if the result differs. In a CSV file a list is a JSON array.

    Example: asof dataset ranking_v1 --entities labels.parquet --at clicked_at -o train.parquet
    """
    repo = Repo.open(repo_option(ctx))
    if output.suffix.lower() != ".parquet":
        raise UsageError(f"got the output file {output}, expected a name that ends in .parquet")
    if like is not None:
        if service or entities or at:
            raise UsageError(
                "--like takes service, rows and moments from the earlier dataset; leave SERVICE, --entities and --at out"
            )
        _again(repo, like, output)
    elif service is None or entities is None:
        raise UsageError("expected SERVICE and --entities FILE, or --like FILE")
    else:
        _new_dataset(repo, service, entities, output, at)


def _new_dataset(repo: Repo, service: str, entities: Path, output: Path, at: str | None) -> None:
    from asof.offline import retrieve_to

    contract = repo.contract(service)
    rows, schema = entity_rows(
        entities, [f.name for f in (*contract.keys, *contract.request_fields) if f.dtype == "string"]
    )
    column = at or moment_column(schema, entities)
    if isinstance(rows, pa.Table):
        rows = _parsed_lists(contract, rows)
    made = retrieve_to(output, contract, rows, at=column, repo=repo.path)
    payload = {
        "file": str(output),
        "rows": made.rows,
        "features": len(contract.features),
        "at": column,
        "tables": dict(made.tables),
        "files": dict(made.files),
    }
    sources = [f"{name} version {version}" for name, version in made.tables.items()]
    sources += [f"{name} SHA-256 {digest[:12]}" for name, digest in made.files.items()]
    emit(
        payload,
        f"{made.rows:,} rows x {len(contract.features)} features -> {output} ({', '.join(sources) or 'no stored features'})",
    )


def _again(repo: Repo, like: Path, output: Path) -> None:
    from asof.offline import rebuild

    made = rebuild(like, output, repo.path)
    if not made.identical:
        raise CheckFailedError(
            f"{output} was made like {like} but differs from it; was it made by another version of asof?"
        )
    emit({"file": str(output), "like": str(like), "identical": True}, f"{output} is byte by byte what {like} is")


def entity_rows(path: Path, texts: Iterable[str] = ()) -> tuple[pa.Table | Path, pa.Schema]:
    """The entity rows of a file, a Parquet file left where it is, and their schema.

    Args:
        path: A Parquet or CSV file.
        texts: Columns of strings, which a CSV file does not tell from numbers.

    Raises:
        SourceError: The file is missing, empty, or cannot be read.
        UsageError: It is neither Parquet nor CSV.
    """
    (file,) = reading.files([path]) if not path.is_dir() else [path]
    if file.is_dir():
        raise UsageError(f"got the folder {path}, expected one Parquet or CSV file of entity rows")
    try:
        if file.name.lower().endswith(".parquet"):
            return file, pq.read_schema(file)
        table = reading.typed_csv(file, texts)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}; is it complete?") from error
    return table, table.schema


def moment_column(schema: pa.Schema, path: Path) -> str:
    """The column of the rows' moments where none is named.

    Raises:
        UsageError: There is none, or more than one.
    """
    times = [f.name for f in schema if pa.types.is_temporal(f.type)]
    if "event_timestamp" in schema.names:
        return "event_timestamp"
    if len(times) != 1:
        raise UsageError(
            f"{path} has {len(times)} time columns ({', '.join(times) or 'none'}); name the rows' moments with --at COLUMN"
        )
    return str(times[0])


def parse_pairs(
    contract: Contract, pairs: Iterable[str], moment: int
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The keys and the request fields of one row, from ``name=value`` texts, in their declared types.

    Raises:
        UsageError: A text has no ``=``.
        NotFoundError: A name is neither a key nor a request field.
        RequestError: A key or field is missing, or its value does not fit.
    """
    declared = {f.name: f for f in (*contract.keys, *contract.request_fields)}
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"got {pair!r}, expected name=value, such as {next(iter(declared), 'key')}=1")
        if name not in declared:
            raise NotFoundError(f"key or request field of service {contract.service!r}", name, declared)
        given[name] = _parsed(declared[name], text, None)
    for field in contract.request_fields:
        if field.dtype == "unixtimestamp":
            given.setdefault(field.name, from_micros(moment))
    if missing := [name for name in declared if name not in given]:
        raise RequestError(None, missing[0], f"is missing; service {contract.service!r} needs {', '.join(declared)}")
    return {f.name: [given[f.name]] for f in contract.keys}, {f.name: [given[f.name]] for f in contract.request_fields}


def _parsed(field: Field, text: str, row: int | None) -> Any:
    if text in {"", "null", "None"}:
        return None
    listed = _LIST.fullmatch(field.dtype)
    try:
        return _elements(text, listed[1]) if listed else _PARSERS.get(field.dtype, str)(text)
    except (ValueError, UsageError):
        how = f"{field.dtype} as a JSON array" if listed else field.dtype
        raise RequestError(row, field.name, f"does not fit, expected {how}") from None


def _parsed_lists(contract: Contract, rows: pa.Table) -> pa.Table:
    """The rows of a CSV file, with lists where a request field is a list."""
    for field in contract.request_fields:
        place = rows.schema.get_field_index(field.name)
        if _LIST.fullmatch(field.dtype) and place >= 0 and pa.types.is_string(rows.schema.field(place).type):
            texts = rows[field.name].to_pylist()
            values = [None if t is None else _parsed(field, t, row) for row, t in enumerate(texts)]
            rows = rows.set_column(place, field.name, pa.array(values))
    return rows


def _elements(text: str, dtype: str) -> list[Any]:
    parse = _PARSERS.get(dtype, str)
    return [None if t is None else parse(t) for t in json_array(text, strings=dtype == "string")]


def _flag(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0"}:
        raise ValueError(text)
    return text.lower() in {"true", "1"}


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int32": int, "int64": int, "float32": float, "float64": float, "bool": _flag,
    "unixtimestamp": lambda text: from_micros(parse_moment(text)), "bytes": str.encode,
}  # fmt: skip


def _chosen(views: dict[str, View], names: tuple[str, ...]) -> list[View]:
    for name in names:
        if name not in views:
            raise NotFoundError("feature view", name, views)
    found = [view for view in views.values() if (view.name in names if names else view.online)]
    if not found:
        held = (
            f"{len(views)} feature views are applied, all with online=False" if views else "no feature view is applied"
        )
        raise UsageError(
            f"{held}, so there is nothing to materialize; expected one with online=True: declare it and run `asof apply`"
        )
    return found


def _start(view: View, end: int) -> int:
    """The earliest event time that a read at ``end`` or later can see."""
    if view.windowed:
        return max(0, end - view.horizon)
    return max(0, end - view.ttl) if view.ttl else 0


def _materialize(repo: Repo, spans: list[MaterializeSpan]) -> list[tuple[MaterializeSpan, float, KnownLater | None]]:
    from asof.feast.apply import fill_caches
    from asof.feast.compute_engine import Interval, known_later, without_known_later_warning

    done = []
    for span in spans:
        began = time.monotonic()
        with feast_call(f"materializing {span.view.name}", repo=repo.path), without_known_later_warning():
            repo.store.materialize(from_micros(span.start), from_micros(span.end), feature_views=[span.view.name])
        seconds = round(time.monotonic() - began, 3)
        done.append((span, seconds, known_later(span.view, repo.path, Interval(span.start, span.end))))
    fill_caches(repo)  # Feast notes every materialization in the registry, which invalidates them
    return done


def _plain(value: Any, dtype: str) -> Any:
    if value is None or (isinstance(value, float) and value != value):
        return None
    if dtype.startswith("int"):
        return int(value)
    if dtype == "bool":
        return bool(value)
    return value if isinstance(value, str | int | list) else float(value) if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _status(feature: Any, statuses: dict[tuple[str, str], int], values: dict[str, Any]) -> str:
    if not feature.on_demand:
        return STATUS_WORDS[statuses[feature.view, feature.feature]]
    return STATUS_WORDS[_plain(values[feature.name][0], feature.dtype) is None]
