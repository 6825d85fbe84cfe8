"""``asof build``, ``asof serve`` and ``asof replay``."""

from __future__ import annotations

import os
import socket
import sys

import click

from asof.cli import repo_option
from asof.console import emit
from asof.errors import UsageError
from asof.settings import RepoSettings


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
    arguments = ["--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(int(limits.shutdown) or 1)]
    click.echo(f"serving {path.parent.name}:{path.name} at http://{host}:{port}", err=True)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", str(path), *arguments])  # noqa: S606


def _check_free(host: str, port: int) -> None:
    """Say now, in one line, what BentoML would say in forty."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port") from error
