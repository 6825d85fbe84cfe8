"""``asof build``, ``asof serve`` and ``asof replay``."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asof.cli import repo_option
from asof.console import emit, progress, table
from asof.errors import ServiceError, UsageError
from asof.instants import parse_moment
from asof.settings import RepoSettings

if TYPE_CHECKING:
    from serving.replay import Report


KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the minute after which load balancers drop theirs."""


@click.command()
@click.argument("model")
@click.option("--version", metavar="VERSION", help="Version of the model; default the newest.")
@click.pass_context
def build(ctx: click.Context, model: str, version: str | None) -> None:
    """Make a Bento of a trained model, to serve or to containerize.

    Example: asof build fraud
    """
    from serving import build as builder

    built = builder.build(RepoSettings.load(repo_option(ctx)), model, version)
    payload = {"tag": built.tag, "path": str(built.path), "bentoml_home": str(built.home)}
    emit(payload, f"built {built.tag} in {built.path}\nserve it with `asof serve {model}`")


@click.command()
@click.argument("model")
@click.option("--version", metavar="VERSION", help="Built version; default the one built last.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65_535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes that answer.")
@click.pass_context
def serve(ctx: click.Context, model: str, version: str | None, host: str, port: int, workers: int) -> None:
    """Serve a model that was built, with BentoML; Ctrl-C ends it.

    Told to stop, a worker says that it is not ready, answers what still comes, and writes its whole prediction log. Killed
    (kill -9) it loses the rows of the last 2 seconds and those of the file that was being written. Both times, and the
    limits on requests, are set by environment variables: see docs/serving.md.

    Example: asof serve fraud --port 3000
    """
    from serving import build as builder
    from serving.limits import Limits

    settings = RepoSettings.load(repo_option(ctx))
    path = builder.find(settings, model, version)
    limits = Limits.from_environment()
    _check_free(host, port)
    builder.use_home(settings)
    options = os.environ.get("BENTOML_CONFIG_OPTIONS", "")
    os.environ["BENTOML_CONFIG_OPTIONS"] = f"{options} services.{model}.workers={workers}".strip()
    arguments = ["--host", host, "--port", str(port), "--timeout-keep-alive", str(KEEP_ALIVE)]
    arguments += ["--timeout-graceful-shutdown", str(int(limits.shutdown) or 1)]
    click.echo(f"serving {path.parent.name}:{path.name} at http://{host}:{port}", err=True)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", str(path), *arguments])  # noqa: S606


@click.command()
@click.argument("model")
@click.option("--from", "start", required=True, metavar="TIME", help="First moment, ISO 8601; without offset: UTC.")
@click.option("--to", "end", required=True, metavar="TIME", help="Moment after the last.")
@click.option("--data", multiple=True, type=click.Path(path_type=Path), help="File with the rows; default: the tables.")
@click.option("--limit", type=click.IntRange(1), help="Most rows to play.")
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="Where the model is served.")
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Connections.")
@click.option("--version", metavar="VERSION", help="Version that must be served; default the one that is.")
@click.option("--again", is_flag=True, help="Ask also for rows that this version answered before.")
@click.option(
    "--stream", is_flag=True, help="Feed the tables' streams, which `asof stream run --clock events` takes in."
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
    """Play recorded rows in time order against the running service.

    Each row is scored first and ingested then, and each label when it became known. Stopped and run again, it goes on.

    Example: asof replay fraud --from 2018-08-08 --to 2018-08-15 --data card_transactions.parquet
    """
    from asof.bundle import Bundle
    from asof.repo import Repo
    from serving.replay import Replay, served_version
    from serving.replay_source import record

    repo = Repo.open(repo_option(ctx))
    bundle = Bundle.find(repo.settings.models, model, version)
    if version is None:
        bundle = Bundle.find(repo.settings.models, model, served_version(url))
    recording = record(repo, bundle, parse_moment(start), parse_moment(end), data, limit)
    with progress(f"replaying {model}", recording.scored.rows.num_rows) as line:
        report = Replay(repo, bundle, recording, url, concurrency, line.advance, stream).run(again=again)
    emit(report.to_dict(), _told(report))
    if report.failures:
        message, count = report.failures.most_common(1)[0]
        raise ServiceError(f"{sum(report.failures.values()):,} rows got no answer; {count:,} of them: {message}")


def _told(report: Report) -> str:
    payload = report.to_dict()
    pushed = [(f"ingested into {name}", count) for name, count in payload["pushed"].items()]
    latency = [(f"latency {name}, ms", value) for name, value in payload["latency_ms"].items()]
    lines = [(name.replace("_", " "), payload[name]) for name in ("answered", "skipped", "failed", "retries")]
    lines += [("decided yes", payload["decisions"]), *pushed]
    lines += [("seconds", payload["seconds"]), ("rows per second", payload["rows_per_second"]), *latency]
    return table(("replay", "value"), lines)


def _check_free(host: str, port: int) -> None:
    """Say now, in one line, what BentoML would say in forty."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        ) from error
