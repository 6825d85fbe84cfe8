"""``asof demo``: runs the whole loop once. Each step is a command that runs in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from asof.cli import repo_option
from asof.commands import demo_workspace as workspaces
from asof.commands.demo_workspace import DemoConfig, DemoWorkspace
from asof.console import emit
from asof.errors import SettingsError, UsageError
from asof.instants import DAY, parse_moment
from asof.quantities import counted
from asof.settings import find_repo

TOTAL = 13
"""Steps of a demo."""

NAMED = 4
"""Most drifted columns that the table names."""


@dataclass
class DemoRun:
    """The state of one demo.

    Attributes:
        workspace: Its folder and the steps so far.
        config: The repo's ``demo.yaml``.
        data: The file of rows.
        options: Options of ``asof simulate``; None if the file was given.
        small: Whether the simulated data is too small for the model's thresholds to be meaningful.
        span: Start (included) and end (excluded) of the replayed span, ISO 8601; set when the model is trained.
    """

    workspace: DemoWorkspace
    config: DemoConfig
    data: Path
    options: dict[str, Any] | None
    small: bool = False
    span: tuple[str, str] = ("", "")


StepFunction = Callable[[DemoRun, workspaces.DemoStep], None]


@click.command()
@click.option(
    "--data",
    "data",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Parquet or CSV file to use; by default rows are simulated.",
)
@click.option("--small", is_flag=True, help="Simulate few rows: the same steps in about a minute.")
@click.option(
    "--into",
    metavar="DIR",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the demo; an earlier demo in it is deleted.",
)
@click.pass_context
def demo(ctx: click.Context, data: Path | None, small: bool, into: Path) -> None:
    """Run the whole loop once: data, apply, ingest, train, build, serve, replay a week, profile, drift, skew.

    Works on a copy of the feature repo in DIR and changes nothing else. Exit code 1 if a served value differs from the
    recomputed one, the model misses a threshold, or drift is not detected.

    Example: asof demo --data rows.parquet
    """
    source = _source(repo_option(ctx))
    config = DemoConfig.load(source)
    if data is not None and not data.exists():
        raise UsageError(f"there is no file {data}; name a Parquet or CSV file, or leave --data out to simulate one")
    workspace, again = workspaces.prepare(into.resolve(), source)
    workspace.total = TOTAL
    click.echo(f"{'Deleted the last demo; running' if again else 'Running'} in {into}", err=True)
    options = None if data else dict(config.simulate_small if small else config.simulate)
    run = DemoRun(workspace, config, data.resolve() if data else workspace.folder / "data.parquet", options, small)
    try:
        _run(run)
    finally:
        workspaces.stop_redis(workspace.repo)
    fine = all(step.fine for step in workspace.steps)
    emit(
        {"fine": fine, "steps": [s.to_dict() for s in workspace.steps]},
        f"\n{workspace.table()}\n\n{_what_next(run, into)}",
    )
    ctx.exit(0 if fine else 1)


def _source(given: str | None) -> Path:
    """The feature repo to copy: the one that every command would use, else the one of the source checkout."""
    try:
        return find_repo(given)
    except SettingsError:
        own = Path(__file__).resolve().parents[2] / "feature_repo"
        if given or os.environ.get("ASOF_REPO") or not (own / "feature_store.yaml").is_file():
            raise
        return own


def _run(run: DemoRun) -> None:
    _steps(
        run,
        {
            "data": _data,
            "apply": _apply,
            "ingest": _ingest,
            "train": _train,
            "build": _build,
            "materialize": _materialize,
        },
    )
    _serve_and_replay(run)
    _steps(
        run,
        {
            "profile": _profile,
            "drift": _drift,
            "drift, manipulated": _manipulated,
            "skew": _skew,
            "performance": _performance,
        },
    )


def _steps(run: DemoRun, functions: dict[str, StepFunction]) -> None:
    for name, function in functions.items():
        with run.workspace.step(name) as step:
            function(run, step)


def _data(run: DemoRun, step: workspaces.DemoStep) -> None:
    if run.options is None:
        step.happened = f"{run.data.name}, {run.data.stat().st_size / 1e6:.0f} MB"
        return
    options = [text for name, value in run.options.items() for text in (f"--{name}", str(value))]
    answer = run.workspace.asof("simulate", *options, "-o", str(run.data))
    step.happened = (
        f"simulated {counted(answer['rows'], 'row')} ({', '.join(f'{n} {v}' for n, v in run.options.items())})"
    )


def _apply(run: DemoRun, step: workspaces.DemoStep) -> None:
    changes = run.workspace.asof("apply")["changes"]
    kinds = [c["kind"] for c in changes if c["action"] == "add"]
    step.happened = ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))


def _ingest(run: DemoRun, step: workspaces.DemoStep) -> None:
    told = []
    for table in run.config.tables:
        answer = run.workspace.asof("ingest", table, str(run.data))
        told.append(f"{table} {counted(answer['rows_added'], 'row')}")
        step.fine &= answer["rows_added"] > 0
        if answer["quarantined"]:
            told[-1] += f" ({answer['quarantined']:,} in quarantine)"
    step.happened = ", ".join(told)


def _train(run: DemoRun, step: workspaces.DemoStep) -> None:
    """Train on the declared span if the data covers it. A model that misses a threshold is still served, but the step is not fine.

    With a small simulation the thresholds are only reported, because its metrics are too noisy to judge.
    """
    start = ("--test-start", run.config.test_start) if _reaches(run) else ()
    answer = run.workspace.asof("train", run.config.model, *start, "--force")
    split = answer["split"]
    run.span = (split["test_start"], split["test_end"])
    figures = ", ".join(f"{name} {figure['value']:.3f}" for name, figure in answer["metrics"].items())
    learned, judged = (
        f"{counted(split[f'{part}_rows'], 'row')} ({split[f'{part}_positives']:,} positive)"
        for part in ("train", "test")
    )
    step.happened = f"learned from {learned}, judged on {judged}: {figures}"
    if answer["missed"]:
        step.happened += f"; below its threshold: {', '.join(answer['missed'])}"
    step.fine = not answer["leaks"] and (run.small or not answer["missed"])


def _reaches(run: DemoRun) -> bool:
    """Whether the tables hold rows before the declared test start and for the week after it."""
    states = {s["table"]: s for s in run.workspace.asof("tables")["tables"]}
    first, last = (states[run.config.tables[0]][name] for name in ("first", "last"))
    start = parse_moment(run.config.test_start)
    return _micros(first) <= start - 14 * DAY and start + 7 * DAY <= _micros(last) + DAY


def _micros(moment: Any) -> int:
    return moment if isinstance(moment, int) else parse_moment(str(moment))


def _build(run: DemoRun, step: workspaces.DemoStep) -> None:
    step.happened = str(run.workspace.asof("build", run.config.model)["tag"])


def _materialize(run: DemoRun, step: workspaces.DemoStep) -> None:
    views = run.workspace.asof("materialize", "--to", run.span[0])["views"]
    step.happened = f"{', '.join(v['view'] for v in views)}, as known on {run.span[0]}"


def _serve_and_replay(run: DemoRun) -> None:
    workspace, model = run.workspace, run.config.model
    command = [sys.executable, "-m", "asof", "--repo", str(workspace.repo), "serve", model, "--port", "{port}"]
    with ExitStack() as running:
        with workspace.step("serve") as step:
            address = running.enter_context(workspaces.service(command, workspace.folder / "service.log"))
            step.happened = f"ready at {address}"
        with workspace.step("replay") as step:
            answer = workspace.asof("replay", model, "--from", run.span[0], "--to", run.span[1], "--url", address)
            latency = ", ".join(f"{name} {value:.1f} ms" for name, value in answer["latency_ms"].items())
            step.happened = (
                f"{answer['answered']:,} requests answered, {answer['rows_per_second']:,.0f} a second; {latency}"
            )
            step.fine = answer["answered"] > 0 and not answer["failed"]


def _profile(run: DemoRun, step: workspaces.DemoStep) -> None:
    profiles = run.workspace.asof("profile", run.config.model, *_span(run))["profiles"]
    step.happened = (
        f"{counted(len(profiles), 'whylogs profile')} of {counted(sum(p['rows'] for p in profiles), 'prediction')}"
    )


def _drift(run: DemoRun, step: workspaces.DemoStep) -> None:
    """Drift in the unchanged week. Any verdict is accepted: the data may really have drifted."""
    page = run.workspace.repo / "data" / "reports" / f"drift-{run.config.model}.html"
    step.happened = _verdict(run.workspace.asof("drift", run.config.model, *_span(run), "--html", str(page)))


def _manipulated(run: DemoRun, step: workspaces.DemoStep) -> None:
    """Drift in the same week with one request field in another unit; here drift must be found."""
    copy, scales = run.workspace.folder / "manipulated", []
    for name, factor in run.config.manipulate.items():
        scales += ["--scale", f"{name}={factor}"]
    run.workspace.asof("drill", run.config.model, *_span(run), *scales, "-o", str(copy))
    page = run.workspace.repo / "data" / "reports" / f"drift-{run.config.model}-manipulated.html"
    answer = run.workspace.asof("drift", run.config.model, *_span(run), "--log", str(copy), "--html", str(page))
    step.happened = f"{', '.join(scales[1::2]).replace('=', ' x ')}: {_verdict(answer)}"
    step.fine = bool(answer["drift"])


def _skew(run: DemoRun, step: workspaces.DemoStep) -> None:
    answer = run.workspace.asof("skew", run.config.model, *_span(run))
    step.happened = str(answer["summary"])
    step.fine = answer["mismatches"] == 0 and answer["rows"] > 0


def _performance(run: DemoRun, step: workspaces.DemoStep) -> None:
    answer = run.workspace.asof("performance", run.config.model, *_span(run))
    step.happened = str(answer["summary"])


def _span(run: DemoRun) -> tuple[str, ...]:
    return ("--from", run.span[0], "--to", run.span[1])


def _verdict(answer: dict[str, Any]) -> str:
    drifted = [c["name"] for c in answer["columns"] if c["verdict"] == "drift"]
    named = ", ".join(drifted[:NAMED]) + (f" and {len(drifted) - NAMED} more" if drifted[NAMED:] else "")
    return (
        f"drift in {len(drifted)} of {counted(len(answer['columns']), 'column')}: {named}"
        if drifted
        else f"none in {counted(len(answer['columns']), 'column')}"
    )


def _what_next(run: DemoRun, into: Path) -> str:
    repo, model, asof = into / "feature_repo", run.config.model, _command()
    verbs = {
        f"drift {model}": "what changed, feature by feature",
        f"serve {model}": "answer requests at http://127.0.0.1:3000",
        "doctor": "check the installation and the repo",
    }
    width = max(map(len, verbs))
    return "\n".join(
        (
            f"Report: {repo / 'data' / 'reports' / f'drift-{model}.html'} (and drift-{model}-manipulated.html)",
            "Try next:",
            *(f"  {asof} --repo {repo} {verb.ljust(width)}   {why}" for verb, why in verbs.items()),
        )
    )


def _command() -> str:
    """The command to call asof with: ``asof`` if it is on PATH, else its path in the virtual environment."""
    installed = Path(sys.executable).with_name("asof")
    found = shutil.which("asof")
    if found and Path(found).resolve() == installed.resolve():
        return "asof"
    return os.path.relpath(installed) if installed.exists() else f"{os.path.relpath(sys.executable)} -m asof"
