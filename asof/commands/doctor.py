"""``asof doctor``: is everything here in order, and if not, what to do."""

from __future__ import annotations

import click

from asof.cli import repo_option
from asof.console import emit, table


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check the installation and the feature repo; say what to do about what is wrong.

    Looks at Python, the installed packages against the lock, Redis, disk, feature_store.yaml, the registry, what is in the
    online store against every contract, and every trained model. Exit code 1 when something is wrong.

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
        f"{len(wrong)} of {len(findings)} findings need attention" if wrong else f"all {len(findings)} checks are fine"
    )
    payload = {"fine": not wrong, "findings": [f.to_dict() for f in findings]}
    emit(payload, table(("", "check", "found", "what to do"), rows) + f"\n\n{verdict}")
    ctx.exit(1 if wrong else 0)
