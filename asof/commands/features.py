"""``asof materialize``, ``asof get`` and ``asof dataset``: write and read online values, and build datasets."""

from __future__ import annotations

from pathlib import Path

import click

from asof.cli import repo_option
from asof.console import show
from asof.instants import parse_moment
from asof.repo import Repo
from asof.verbs import dataset as building
from asof.verbs import get as reading
from asof.verbs import materialize as materializing

FILE = click.Path(path_type=Path)


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
    first, last = (None if text is None else parse_moment(text) for text in (start, end))
    show(ctx, materializing.materialize(repo, names, start=first, end=last))


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
    moment = None if at is None else parse_moment(at)
    show(ctx, reading.get(Repo.open(repo_option(ctx)), service, pairs, at=moment))


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
    was made from, so that --like can rebuild it byte by byte; exit code 1 if the result differs. Sources that are plain Parquet have no
    old versions: if their contents have changed, --like writes nothing and says so. In a CSV file a list is a JSON array.

    Example: asof dataset ranking_v1 --entities labels.parquet --at clicked_at -o train.parquet
    """
    show(ctx, building.dataset(Repo.open(repo_option(ctx)), service, entities, output, at=at, like=like))
