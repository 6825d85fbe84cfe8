"""``asof plan`` and ``asof apply``: compare the repo's definitions with the registry, and register them."""

from __future__ import annotations

import click

from asof.cli import repo_option
from asof.console import emit
from asof.feast.apply import ApplyPlan, BrokenModel, RegistryChange
from asof.feast.apply import apply as apply_definitions
from asof.feast.apply import plan as plan_definitions
from asof.repo import Repo

APPLIED = "applied"
_SIGNS = {"add": "+", "change": "~", "remove": "-"}


@click.command()
@click.pass_context
def plan(ctx: click.Context) -> None:
    """Show what `asof apply` would change and which trained models that would break.

    Changes nothing. Also shows the definitions that do not fit their tables, and what `asof apply` would refuse without --force. The
    exit code is 0 even if there is something of the kind.

    Example: asof plan
    """
    found = plan_definitions(Repo.open(repo_option(ctx)))
    emit(found.to_dict(), _told(found, "to apply"))


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
    found = apply_definitions(Repo.open(repo_option(ctx)), force=force)
    emit(found.to_dict(), _told(found, APPLIED))


def _told(found: ApplyPlan, what: str) -> str:
    count = len(found.changes)
    lines = [line for change in found.changes for line in _change(change)]
    lines.append(
        f"{count} change{'s' if count != 1 else ''} {what}" if count else f"nothing {what}: the registry is up to date"
    )
    lines += [f"! {fault}" for fault in found.faults]
    told = "reads has changed" if what == APPLIED else "reads would change, so that `asof apply` needs --force"
    lines += [line for model in found.broken for line in _broken(model, told)]
    if found.models and not found.broken:
        lines.append(f"{found.models} model version{'s' if found.models != 1 else ''}: all fit")
    return "\n".join(lines)


def _change(change: RegistryChange) -> list[str]:
    return [f"{_SIGNS[change.action]} {change.kind} {change.name}", *(f"    {line}" for line in change.details)]


def _broken(model: BrokenModel, told: str) -> list[str]:
    marks = [*(["newest"] if model.newest else []), *([model.served] if model.served else [])]
    newest = f" ({', '.join(marks)})" if marks else ""
    lines = [f"! model {model.model} {model.version}{newest} does not fit service {model.service}; train it again"]
    lines += [f"    {name}: {'; '.join(why)}" for name, why in model.features.items()]
    if model.breaks:
        lines.append(f"    it is served, and what it {told}: {model.told_breaks}")
    return lines
