"""``asof plan`` and ``asof apply``: compare the repo's definitions with the registry, and register them."""

from __future__ import annotations

import click

from asof.cli import repo_option
from asof.console import show
from asof.feast.apply import apply as apply_definitions
from asof.feast.apply import plan as plan_definitions
from asof.repo import Repo


@click.command()
@click.pass_context
def plan(ctx: click.Context) -> None:
    """Show what `asof apply` would change and which trained models that would break.

    Changes nothing. Also shows the definitions that do not fit their tables, and what `asof apply` would refuse without --force. The
    exit code is 0 even if there is something of the kind.

    Example: asof plan
    """
    show(ctx, plan_definitions(Repo.open(repo_option(ctx))))


@click.command()
@click.option("--force", is_flag=True, help="Apply although that breaks a version that is served.")
@click.pass_context
def apply(ctx: click.Context, force: bool) -> None:
    """Register the repo's definitions and show what changed.

    Does what `feast apply` does, which also prepares the online store. Nothing is applied if a definition does not fit the table or
    file that it reads (exit code 2), or if stored values would change that a served version of a model reads (exit code 1). Served
    are the version of each model that was built last, and those with predictions in the last 7 days.

    Example: asof apply
    """
    show(ctx, apply_definitions(Repo.open(repo_option(ctx)), force=force))
