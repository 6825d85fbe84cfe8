"""``asof build``, ``asof serve`` and ``asof replay``."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import click

from asof.cli import repo_option
from asof.console import emit, show
from asof.errors import UsageError
from asof.instants import parse_moment
from asof.repo import Repo
from asof.settings import RepoSettings

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: more than the 60 after which load balancers usually close theirs."""


@click.command()
@click.argument("model")
@click.option("--version", metavar="VERSION", help="Version of the model; by default the newest.")
@click.pass_context
def build(ctx: click.Context, model: str, version: str | None) -> None:
    """Build a Bento from a trained model, to serve it or to put it into a container.

    Example: asof build fraud
    """
    from asof.serving import build as builder

    show(ctx, builder.build(RepoSettings.load(repo_option(ctx)), model, version))


@click.command()
@click.argument("model")
@click.option("--version", metavar="VERSION", help="Version to serve; by default the one built last.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65_535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.pass_context
def serve(ctx: click.Context, model: str, version: str | None, host: str, port: int, workers: int) -> None:
    """Serve a built model with BentoML; Ctrl-C stops it. Each worker says when it is ready, and where.

    When stopped, a worker reports that it is not ready, answers the remaining requests and writes its prediction log. When
    killed (kill -9), it loses the rows of the last 2 seconds and of the file that it was writing. Environment variables set
    these times and the limits on requests: see docs/configuration.md.

    Example: asof serve fraud --port 3000
    """
    from asof.serving import build as builder
    from asof.serving.limits import Limits
    from asof.serving.readiness import ADDRESS_VARIABLE

    settings = RepoSettings.load(repo_option(ctx))
    path = builder.find(settings, model, version)
    limits = Limits.from_environment()
    _check_free(host, port)
    builder.use_home(settings)
    options = os.environ.get("BENTOML_CONFIG_OPTIONS", "")
    os.environ["BENTOML_CONFIG_OPTIONS"] = f"{options} services.{model}.workers={workers}".strip()
    arguments = ["--host", host, "--port", str(port), "--timeout-keep-alive", str(KEEP_ALIVE)]
    arguments += ["--timeout-graceful-shutdown", str(int(limits.shutdown) or 1)]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    os.environ[ADDRESS_VARIABLE] = address
    click.echo(f"starting {path.parent.name}:{path.name}", err=True)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", str(path), *arguments])  # noqa: S606


@click.command()
@click.argument("model")
@click.option("--from", "start", required=True, metavar="TIME", help="First moment, ISO 8601; UTC if it has no offset.")
@click.option("--to", "end", required=True, metavar="TIME", help="End of the span; this moment is not included.")
@click.option(
    "--data", multiple=True, type=click.Path(path_type=Path), help="File with the rows; by default the tables are read."
)
@click.option("--limit", type=click.IntRange(1), help="Most rows to replay.")
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="Address of the service.")
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Number of connections.")
@click.option("--version", metavar="VERSION", help="Version that the service must serve; by default any.")
@click.option("--again", is_flag=True, help="Also score rows that this version has already answered.")
@click.option(
    "--stream",
    is_flag=True,
    help="Send rows to the streams of their tables, which `asof stream run --clock events` reads.",
)
@click.pass_context
def replay(
    ctx: click.Context,
    model: str,
    start: str,
    end: str,
    data: tuple[Path, ...],
    limit: int | None,
    url: str,
    concurrency: int,
    version: str | None,
    again: bool,
    stream: bool,
) -> None:
    """Send recorded rows to the running service, in time order.

    Each row is scored and then ingested. Every source of the model's features, and its label table, is fed at the time its rows
    became known: from the files that fit it, otherwise from its own table. What cannot be fed is named before the replay starts.
    Rows known before the span are not fed: materialize them first. A replay that was stopped continues when it is run again.

    Example: asof replay fraud --from 2018-08-08 --to 2018-08-15 --data card_transactions.parquet
    """
    from asof.serving import verbs

    report = verbs.replay(
        Repo.open(repo_option(ctx)), model, parse_moment(start), parse_moment(end), data=data, limit=limit, url=url,
        concurrency=concurrency, version=version, again=again, stream=stream, warn=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    emit(report.to_dict(), report.to_text())
    report.check()


def _check_free(host: str, port: int) -> None:
    """Report an address that is in use in one line, before BentoML prints a traceback."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        ) from error
