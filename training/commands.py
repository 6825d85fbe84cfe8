"""The verbs ``asof train`` and ``asof models``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asof import task
from asof.bundle import Bundle, versions
from asof.cli import repo_option
from asof.console import SHOW_AFTER, emit, table
from asof.errors import BundleError, NotFoundError
from asof.instants import parse_moment
from asof.repo import Repo
from asof.settings import RepoSettings

if TYPE_CHECKING:
    from asof.training.metrics import MetricResult
    from asof.training.publish import DecisionResult, Run


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
    from asof.training import catalog, pipeline
    from asof.training.split import GivenSpans

    started = time.monotonic()
    repo = Repo.open(repo_option(ctx))
    declared = catalog.declared(repo.path, folder)
    chosen = declared.find(model)
    for line in declared.unreadable:
        click.echo(f"asof: {line}; no model is taken from it", err=True)
    given = GivenSpans(*(parse_moment(text) if text else None for text in (train_start, test_start, test_end)))
    with _status() as say:
        material = pipeline.gather(repo, chosen, given, say=say)
        run, reference = pipeline.learn(material, say=say, started=started)
        good = (force or not run.missed) and (allow_leak or not run.leaks)
        say("writing the bundle")
        bundle = pipeline.save(run, reference, repo) if good else None
    emit(_payload(run, bundle), _text(run, bundle))
    ctx.exit(0 if good else 1)


@click.command()
@click.argument("model", required=False)
@click.pass_context
def models(ctx: click.Context, model: str | None) -> None:
    """List the trained models, or the versions of one, newest first.

    Example: asof models
    """
    settings = RepoSettings.load(repo_option(ctx))
    names = sorted(p.name for p in settings.models.iterdir() if p.is_dir()) if settings.models.is_dir() else []
    names = [name for name in names if versions(settings.models, name)]
    if model is not None and model not in names:
        raise NotFoundError("trained model", model, names)
    listed = [
        _bundle_line(settings.models / name / version)
        for name in ([model] if model else names)
        for version in reversed(versions(settings.models, name))
    ]
    header = ("model", "version", "created", "service", "fingerprint", "metrics")
    lines = [
        (line["model"], line["version"], line["created"], line["service"], line["fingerprint"], _short(line))
        for line in listed
    ]
    empty = "no model was trained here yet; train one with `asof train MODEL`"
    emit({"models": listed}, table(header, lines) if lines else empty)


def _bundle_line(path: Path) -> dict[str, Any]:
    """One row of the list for a bundle; for a damaged bundle, its error."""
    line = {"model": path.parent.name, "version": path.name, "path": str(path)}
    try:
        known = Bundle.open(path).metadata
        return {
            **line,
            **{name: known.get(name) for name in ("created", "service", "fingerprint", "metrics", "split")},
            "fault": None,
        }
    except (BundleError, OSError, ValueError) as error:
        return {
            **line,
            "created": None,
            "service": None,
            "fingerprint": None,
            "metrics": {},
            "split": {},
            "fault": str(error),
        }


def _short(line: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {figure['value']:.4f}" for name, figure in (line["metrics"] or {}).items())
    return f"damaged: {line['fault']}" if line["fault"] else figures


def _payload(run: Run, bundle: Bundle | None) -> dict[str, Any]:
    return {
        "model": run.model.name,
        "version": bundle.version if bundle else None,
        "bundle": str(bundle.path) if bundle else None,
        "service": run.contract.service,
        "fingerprint": run.contract.fingerprint,
        "features": len(run.names),
        "unused": run.unused,
        "metrics": {name: asdict(figure) for name, figure in run.figures.items()},
        "missed": run.missed,
        "leaks": [asdict(leak) for leak in run.leaks],
        "task": task.to_dict(run.fitted.task),
        "decision": asdict(run.decided) if run.decided else None,
        "split": dict(run.split),
        "trees": run.fitted.trees,
        "booster_sha256": run.digest,
        "tables": dict(run.versions),
        "files": dict(run.digests),
        "seconds": round(run.seconds, 3),
    }


def _text(run: Run, bundle: Bundle | None) -> str:
    moments = run.split
    rows = [
        (name, moments[start], moments[end], moments[f"{name}_rows"], _labels(run, name))
        for name, start, end in (
            ("train", "train_start", "train_end"),
            ("gap", "train_end", "test_start"),
            ("test", "test_start", "test_end"),
        )
    ]
    figures = [(name, *(f"{v:.4f}" for v in (f.value, f.low, f.high)), _verdict(f)) for name, f in run.figures.items()]
    named = {"binary": "positives", "multiclass": "rows by class"}.get(run.fitted.task.kind, "mean label")
    parts = [
        f"model {run.model.name}: {len(run.names)} features of {run.contract.service}, {run.fitted.trees} trees",
        *([_unused(run)] if run.unused else []),
        table(("span", "from", "to", "rows", named), rows),
        *(
            [f"left out of the test span, known before: {moments['test_left_out']:,} rows"]
            if moments["test_left_out"]
            else []
        ),
        *([f"labels too late to learn from: {moments['train_late_labels']:,}"] if moments["train_late_labels"] else []),
        table(("metric", "value", "95 % from", "to", "threshold"), figures),
        *([_decision(run.decided)] if run.decided else []),
        *([f"leak ({leak.kind}): {leak.line}" for leak in run.leaks] or ["leak check: nothing found"]),
        _ending(run, bundle),
    ]
    return "\n\n".join(parts)


def _labels(run: Run, span: str) -> Any:
    """What the labels of a span are like."""
    split = run.split
    if run.fitted.task.kind == "binary":
        return split[f"{span}_positives"]
    if run.fitted.task.kind == "multiclass":
        return ", ".join(f"{name} {rows:,}" for name, rows in split[f"{span}_classes"].items())
    return split[f"{span}_mean_label"]


def _decision(decided: DecisionResult) -> str:
    return (
        f"decision from a score of {decided.threshold:.4f} ({decided.how}): precision {decided.precision:.3f}, "
        f"recall {decided.recall:.3f}"
    )


def _unused(run: Run) -> str:
    named = ", ".join(f"{name} ({dtype})" for name, dtype in run.unused.items())
    return f"{len(run.unused)} of {len(run.contract.features)} features not used: {named}; only numbers, booleans and declared categories enter the model"


def _verdict(figure: MetricResult) -> str:
    if figure.threshold is None:
        return "-"
    return f"{figure.threshold:g} {'reached' if figure.reached else 'MISSED'}"


def _ending(run: Run, bundle: Bundle | None) -> str:
    if bundle is not None:
        return f"wrote {bundle.path} in {run.seconds:.1f} s; build a service with `asof build {run.model.name}`"
    missed = [f"{', '.join(run.missed)} missed (--force writes the bundle anyway)"] if run.missed else []
    leaks = ["the leak check found something (--allow-leak goes on)"] if run.leaks else []
    return f"no bundle was written: {' and '.join([*missed, *leaks])}"


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """A function that shows the current step on a terminal, after the first second."""
    started, shown = time.monotonic(), sys.stderr.isatty()

    def say(what: str) -> None:
        if shown and time.monotonic() - started > SHOW_AFTER:
            sys.stderr.write(f"\r\033[K{what} ...")
            sys.stderr.flush()

    try:
        yield say
    finally:
        if shown:
            sys.stderr.write("\r\033[K")
