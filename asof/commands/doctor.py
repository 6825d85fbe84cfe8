"""``asof doctor``: checks the installation and the feature repo."""

from __future__ import annotations

import click

from asof.cli import repo_option
from asof.console import emit, table


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
    from asof.doctor import examine

    findings = list(examine(repo_option(ctx)))
    wrong = [f for f in findings if not f.fine]
    rows = [("ok" if f.fine else "WRONG", f.check, f.found, f.advice) for f in findings]
    verdict = (
        f"{len(wrong)} of {len(findings)} checks found a problem" if wrong else f"all {len(findings)} checks are fine"
    )
    payload = {"fine": not wrong, "findings": [f.to_dict() for f in findings]}
    emit(payload, table(("", "check", "found", "what to do"), rows) + f"\n\n{verdict}")
    ctx.exit(1 if wrong else 0)
