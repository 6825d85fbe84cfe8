"""``asof doctor``: checks the installation and the feature repo."""

from __future__ import annotations

import click

from asof.cli import repo_option
from asof.console import show


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check the installation and the feature repo.

    Checks Python, the installed packages, Redis, disk, feature_store.yaml, the registry, the online store against every
    contract, and every trained model, and says how to fix each problem. Exit code 1 if there is a problem.

    \b
    Example:
      asof doctor
      asof --repo demo/feature_repo doctor --json
    """
    from asof import doctor as checks

    show(ctx, checks.doctor(repo_option(ctx)))
