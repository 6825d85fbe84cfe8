"""``asof redis``: starts, stops and shows the repo's embedded redis-server."""

from __future__ import annotations

from dataclasses import asdict

import click

from asof.cli import repo_option
from asof.console import emit
from asof.errors import UsageError
from asof.online.redis.server import EmbeddedRedis, ServerStatus
from asof.quantities import counted
from asof.settings import RepoSettings


@click.group()
def redis() -> None:
    """Start, stop or inspect the embedded Redis of the repo.

    Commands that need it start it. It runs until `asof redis stop`; its data stays in data/redis.

    Example: asof redis status
    """


@redis.command()
@click.pass_context
def start(ctx: click.Context) -> None:
    """Start the server if it is not running.

    Example: asof redis start
    """
    server = _server(ctx)
    started = server.start()
    status = server.status()
    emit({"started": started, **asdict(status)}, f"{'started' if started else 'already running'}: {_line(status)}")


@redis.command()
@click.pass_context
def stop(ctx: click.Context) -> None:
    """Stop the server; its data is kept.

    Example: asof redis stop
    """
    stopped = _server(ctx).stop()
    emit({"stopped": stopped}, "stopped" if stopped else "was not running")


@redis.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show whether the server runs, its memory and its number of keys.

    Example: asof redis status
    """
    found = _server(ctx).status()
    emit(asdict(found), _line(found))


def _server(ctx: click.Context) -> EmbeddedRedis:
    online = RepoSettings.load(repo_option(ctx)).online
    if not online.embedded:
        raise UsageError(
            f"this repo uses the Redis at {online.address}, not the embedded one; set connection_string: embedded"
        )
    return EmbeddedRedis(online.folder)


def _line(found: ServerStatus) -> str:
    if not found.running:
        return f"not running ({found.socket})"
    if not found.answering:
        return f"running as process {found.pid} but not answering ({found.socket})"
    memory = (found.memory_bytes or 0) / 2**20
    return f"redis {found.version}, process {found.pid}, {counted(found.keys or 0, 'key')}, {memory:.1f} MiB, {found.socket}"
