"""The verbs ``asof train`` and ``asof models``."""

from __future__ import annotations

from pathlib import Path

import click

from asof.cli import repo_option
from asof.console import show
from asof.instants import parse_moment
from asof.repo import Repo
from asof.settings import RepoSettings
from asof.training import verbs


@click.command()
@click.argument("model")
@click.option(
    "--models",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder with model declarations that override others of the same name.",
)
@click.option("--train-start", metavar="TIME", help="Start of the training span; the other spans are derived from it.")
@click.option("--test-start", metavar="TIME", help="Start of the test span; the other spans are derived from it.")
@click.option(
    "--test-end", metavar="TIME", help="End of the test span; by default the end of the last day with labelled rows."
)
@click.option("--force", is_flag=True, help="Write the bundle and exit with 0 even if a threshold was missed.")
@click.option("--allow-leak", is_flag=True, help="Continue even if the leak check found something.")
@click.pass_context
def train(
    ctx: click.Context, model: str, folder: Path | None, train_start: str | None, test_start: str | None, test_end: str | None,
    force: bool, allow_leak: bool,
) -> None:  # fmt: skip
    """Train a model, evaluate it, and write its bundle.

    Exit code 1, and no bundle, when a threshold is missed (unless --force) or the leak check finds something
    (unless --allow-leak).

    \b
    Example: asof train churn
    Example: asof train churn --test-start 2018-08-08
    """
    from asof.training.split import GivenSpans

    repo = Repo.open(repo_option(ctx))
    given = GivenSpans(*(parse_moment(text) if text else None for text in (train_start, test_start, test_end)))
    trained = verbs.train(
        repo, model, models=folder, given=given, force=force, allow_leak=allow_leak,
        warn=lambda line: click.echo(f"asof: {line}", err=True),
    )  # fmt: skip
    show(ctx, trained)


@click.command()
@click.argument("model", required=False)
@click.pass_context
def models(ctx: click.Context, model: str | None) -> None:
    """List the trained models, or the versions of one, newest first.

    Example: asof models
    """
    show(ctx, verbs.models(RepoSettings.load(repo_option(ctx)), model))
