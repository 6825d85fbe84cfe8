"""``asof materialize``, ``get``, ``dataset``: feature values into the online store, out of it, and out of the past."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from asof.cli import repo_option
from asof.console import emit, table
from asof.contract import Contract, Field, View
from asof.errors import NotFoundError, RequestError, UsageError
from asof.feast_calls import feast_call
from asof.instants import format_moment, from_micros, parse_moment
from asof.repo import Repo
from asof.tables.declarations import declarations

STATUS_WORDS = ("present", "null", "outside max age", "not found")


@dataclass(frozen=True)
class Span:
    """What was asked to be materialized of one view: microseconds, both ends included."""

    view: View
    start: int
    end: int


@click.command()
@click.argument("names", metavar="[VIEW...]", nargs=-1)
@click.option(
    "--from", "start", metavar="TIME", help="First event time; by default as far back as a read at --to can see."
)
@click.option("--to", "end", metavar="TIME", help="Last event time; by default now.")
@click.pass_context
def materialize(ctx: click.Context, names: tuple[str, ...], start: str | None, end: str | None) -> None:
    """Write feature values, or the events of windowed views, from the tables into the online store.

    By default everything that a read at --to or later can see, rows that arrived late included: the longest window of a windowed
    view, the ttl of another view, or everything where there is neither. Doing it again changes nothing.

    Example: asof materialize --to 2018-08-08
    """
    repo = Repo.open(repo_option(ctx))
    last = time.time_ns() // 1_000 if end is None else parse_moment(end)
    with feast_call("reading the registry", repo=repo.path):
        views = _chosen(repo.views(), names)
    spans = [Span(view, _start(view, last) if start is None else parse_moment(start), last) for view in views]
    if wrong := [s for s in spans if s.start > s.end]:
        raise UsageError(
            f"--from {format_moment(wrong[0].start)} is after --to {format_moment(last)}; expected an earlier time"
        )
    done = _materialize(repo, spans)
    rows = [(s.view.name, format_moment(s.start), format_moment(s.end), seconds) for s, seconds in done]
    payload = [dict(zip(("view", "from", "to", "seconds"), row, strict=True)) for row in rows]
    emit({"views": payload}, table(("view", "from", "to", "seconds"), rows))


@click.command()
@click.argument("service", metavar="SERVICE")
@click.argument("pairs", metavar="KEY=VALUE...", nargs=-1)
@click.option("--at", metavar="TIME", help="The moment to read at; by default now.")
@click.pass_context
def get(ctx: click.Context, service: str, pairs: tuple[str, ...], at: str | None) -> None:
    """Show what a model would be served: value and status of every feature of a service, for one key.

    The pairs name the entity keys and the request fields; a request field of a time that is left out is --at.

    Example: asof get fraud_v1 customer_id=596 terminal_id=3156 tx_amount=57.16 --at 2018-08-08T12:00:00Z
    """
    from asof.online import Reader
    from asof.vectors import assemble

    repo = Repo.open(repo_option(ctx))
    moment = time.time_ns() // 1_000 if at is None else parse_moment(at)
    with feast_call("reading the registry", repo=repo.path):
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
    emit({"service": service, "at": format_moment(moment), "features": payload}, text)


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
        given[name] = _parsed(declared[name], text)
    for field in contract.request_fields:
        if field.dtype == "unixtimestamp":
            given.setdefault(field.name, from_micros(moment))
    if missing := [name for name in declared if name not in given]:
        raise RequestError(None, missing[0], f"is missing; service {contract.service!r} needs {', '.join(declared)}")
    return {f.name: [given[f.name]] for f in contract.keys}, {f.name: [given[f.name]] for f in contract.request_fields}


def _parsed(field: Field, text: str) -> Any:
    if text in {"", "null", "None"}:
        return None
    try:
        return _PARSERS.get(field.dtype, str)(text)
    except (ValueError, UsageError):
        raise RequestError(None, field.name, f"does not fit, expected {field.dtype}") from None


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
    return [view for view in views.values() if (view.name in names if names else view.online)]


def _start(view: View, end: int) -> int:
    """The earliest event time that a read at ``end`` or later can see."""
    if view.windowed:
        return max(0, end - view.horizon)
    return max(0, end - view.ttl) if view.ttl else 0


def _materialize(repo: Repo, spans: list[Span]) -> list[tuple[Span, float]]:
    done = []
    for span in spans:
        began = time.monotonic()
        with feast_call(f"materializing {span.view.name}", repo=repo.path):
            repo.store.materialize(from_micros(span.start), from_micros(span.end), feature_views=[span.view.name])
        done.append((span, round(time.monotonic() - began, 3)))
    declarations(repo)  # Feast notes every materialization in the registry; keep what was read from it up to date
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
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _status(feature: Any, statuses: dict[tuple[str, str], int], values: dict[str, Any]) -> str:
    if not feature.on_demand:
        return STATUS_WORDS[statuses[feature.view, feature.feature]]
    return STATUS_WORDS[_plain(values[feature.name][0], feature.dtype) is None]
