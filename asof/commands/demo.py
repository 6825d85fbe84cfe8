"""``asof demo``: the whole loop once, every step a verb of the command line. The second module that may reach every room."""

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

from asof import demo as stages
from asof.cli import repo_option
from asof.console import emit
from asof.demo import Script, Stage
from asof.errors import SettingsError, UsageError
from asof.instants import DAY, parse_moment
from asof.settings import find_repo

TOTAL = 13
"""Steps of a demo."""

NAMED = 4
"""Drifted columns that the table names."""


@dataclass
class Play:
    """A demo under way.

    Attributes:
        stage: Where it plays.
        script: What the feature repo says about it.
        data: The file of rows.
        options: Options of ``asof simulate``; None where the file was given.
        small: Whether the simulated data is too small for the model's thresholds to mean anything.
        span: First moment of the replayed span and the one after the last, ISO 8601; known once a model was trained.
    """

    stage: Stage
    script: Script
    data: Path
    options: dict[str, Any] | None
    small: bool = False
    span: tuple[str, str] = ("", "")


Act = Callable[[Play, stages.Step], None]


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
    help="Folder to play in; an earlier demo there is cleared away.",
)
@click.pass_context
def demo(ctx: click.Context, data: Path | None, small: bool, into: Path) -> None:
    """Run the whole loop once: data, apply, ingest, train, build, serve, replay a week, profile, drift, skew.

    Works on a copy of the feature repo in DIR and touches nothing else. Exit code 1 when something is not as it must be:
    a served value that differs from the recomputed one, a model below its thresholds, drift that goes unnoticed.

    Example: asof demo --data rows.parquet
    """
    source = _source(repo_option(ctx))
    script = Script.load(source)
    if data is not None and not data.exists():
        raise UsageError(f"there is no file {data}; name a Parquet or CSV file, or leave --data out to simulate one")
    stage, again = stages.prepare(into.resolve(), source)
    stage.total = TOTAL
    click.echo(f"{'Cleared the last demo away; playing' if again else 'Playing'} in {into}", err=True)
    options = None if data else dict(script.simulate_small if small else script.simulate)
    play = Play(stage, script, data.resolve() if data else stage.folder / "data.parquet", options, small)
    try:
        _run(play)
    finally:
        stages.stop_redis(stage.repo)
    fine = all(step.fine for step in stage.steps)
    emit({"fine": fine, "steps": [s.to_dict() for s in stage.steps]}, f"\n{stage.table()}\n\n{_what_next(play, into)}")
    ctx.exit(0 if fine else 1)


def _source(given: str | None) -> Path:
    """The feature repo to copy: as every verb finds it, else the one of the checkout."""
    try:
        return find_repo(given)
    except SettingsError:
        own = Path(__file__).resolve().parents[2] / "feature_repo"
        if given or os.environ.get("ASOF_REPO") or not (own / "feature_store.yaml").is_file():
            raise
        return own


def _run(play: Play) -> None:
    _acts(
        play,
        {
            "data": _data,
            "apply": _apply,
            "ingest": _ingest,
            "train": _train,
            "build": _build,
            "materialize": _materialize,
        },
    )
    _serve_and_replay(play)
    _acts(
        play,
        {
            "profile": _profile,
            "drift": _drift,
            "drift, manipulated": _manipulated,
            "skew": _skew,
            "performance": _performance,
        },
    )


def _acts(play: Play, acts: dict[str, Act]) -> None:
    for name, act in acts.items():
        with play.stage.step(name) as step:
            act(play, step)


def _data(play: Play, step: stages.Step) -> None:
    if play.options is None:
        step.happened = f"{play.data.name}, {play.data.stat().st_size / 1e6:.0f} MB"
        return
    options = [text for name, value in play.options.items() for text in (f"--{name}", str(value))]
    answer = play.stage.asof("simulate", *options, "-o", str(play.data))
    step.happened = f"simulated {answer['rows']:,} rows ({', '.join(f'{n} {v}' for n, v in play.options.items())})"


def _apply(play: Play, step: stages.Step) -> None:
    changes = play.stage.asof("apply")["changes"]
    kinds = [c["kind"] for c in changes if c["action"] == "add"]
    step.happened = ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds))


def _ingest(play: Play, step: stages.Step) -> None:
    told = []
    for table in play.script.tables:
        answer = play.stage.asof("ingest", table, str(play.data))
        told.append(f"{table} {answer['rows_added']:,} rows")
        step.fine &= answer["rows_added"] > 0
        if answer["quarantined"]:
            told[-1] += f" ({answer['quarantined']:,} in quarantine)"
    step.happened = ", ".join(told)


def _train(play: Play, step: stages.Step) -> None:
    """Train on the declared span if the data reaches it; a model that misses a threshold is served, and not called fine.

    A small simulation is too easy in parts and too noisy in others, so its thresholds are reported and not judged.
    """
    start = ("--test-start", play.script.test_start) if _reaches(play) else ()
    answer = play.stage.asof("train", play.script.model, *start, "--force")
    split = answer["split"]
    play.span = (split["test_start"], split["test_end"])
    figures = ", ".join(f"{name} {figure['value']:.3f}" for name, figure in answer["metrics"].items())
    learned, judged = (
        f"{split[f'{part}_rows']:,} rows ({split[f'{part}_positives']:,} positive)" for part in ("train", "test")
    )
    step.happened = f"learned from {learned}, judged on {judged}: {figures}"
    if answer["missed"]:
        step.happened += f"; below its threshold: {', '.join(answer['missed'])}"
    step.fine = not answer["leaks"] and (play.small or not answer["missed"])


def _reaches(play: Play) -> bool:
    """Whether the tables hold rows beyond the declared test start's week, and before it."""
    states = {s["table"]: s for s in play.stage.asof("tables")["tables"]}
    first, last = (states[play.script.tables[0]][name] for name in ("first", "last"))
    start = parse_moment(play.script.test_start)
    return _micros(first) <= start - 14 * DAY and start + 7 * DAY <= _micros(last) + DAY


def _micros(moment: Any) -> int:
    return moment if isinstance(moment, int) else parse_moment(str(moment))


def _build(play: Play, step: stages.Step) -> None:
    step.happened = str(play.stage.asof("build", play.script.model)["tag"])


def _materialize(play: Play, step: stages.Step) -> None:
    views = play.stage.asof("materialize", "--to", play.span[0])["views"]
    step.happened = f"{', '.join(v['view'] for v in views)}, as known on {play.span[0]}"


def _serve_and_replay(play: Play) -> None:
    stage, model = play.stage, play.script.model
    command = [sys.executable, "-m", "asof", "--repo", str(stage.repo), "serve", model, "--port", "{port}"]
    with ExitStack() as running:
        with stage.step("serve") as step:
            address = running.enter_context(stages.service(command, stage.folder / "service.log"))
            step.happened = f"ready at {address}"
        with stage.step("replay") as step:
            answer = stage.asof("replay", model, "--from", play.span[0], "--to", play.span[1], "--url", address)
            latency = ", ".join(f"{name} {value:.1f} ms" for name, value in answer["latency_ms"].items())
            step.happened = (
                f"{answer['answered']:,} requests answered, {answer['rows_per_second']:,.0f} a second; {latency}"
            )
            step.fine = answer["answered"] > 0 and not answer["failed"]


def _profile(play: Play, step: stages.Step) -> None:
    profiles = play.stage.asof("profile", play.script.model, *_span(play))["profiles"]
    step.happened = f"{len(profiles)} whylogs profiles of {sum(p['rows'] for p in profiles):,} predictions"


def _drift(play: Play, step: stages.Step) -> None:
    """The week as it was: what drifted in it did drift, so that no verdict is wrong; the report says what and why."""
    step.happened = _verdict(play.stage.asof("drift", play.script.model, *_span(play)))


def _manipulated(play: Play, step: stages.Step) -> None:
    """The same week with a request field in another unit; here drift must be found."""
    copy, scales = play.stage.folder / "manipulated", []
    for name, factor in play.script.manipulate.items():
        scales += ["--scale", f"{name}={factor}"]
    play.stage.asof("drill", play.script.model, *_span(play), *scales, "-o", str(copy))
    page = play.stage.repo / "data" / "reports" / f"drift-{play.script.model}-manipulated.html"
    answer = play.stage.asof("drift", play.script.model, *_span(play), "--log", str(copy), "--html", str(page))
    step.happened = f"{', '.join(scales[1::2]).replace('=', ' x ')}: {_verdict(answer)}"
    step.fine = bool(answer["drift"])


def _skew(play: Play, step: stages.Step) -> None:
    answer = play.stage.asof("skew", play.script.model, *_span(play))
    step.happened = str(answer["summary"])
    step.fine = answer["mismatches"] == 0 and answer["rows"] > 0


def _performance(play: Play, step: stages.Step) -> None:
    answer = play.stage.asof("performance", play.script.model, *_span(play))
    step.happened = str(answer["summary"])


def _span(play: Play) -> tuple[str, ...]:
    return ("--from", play.span[0], "--to", play.span[1])


def _verdict(answer: dict[str, Any]) -> str:
    drifted = [c["name"] for c in answer["columns"] if c["verdict"] == "drift"]
    named = ", ".join(drifted[:NAMED]) + (f" and {len(drifted) - NAMED} more" if drifted[NAMED:] else "")
    return (
        f"drift in {len(drifted)} of {len(answer['columns'])} columns: {named}"
        if drifted
        else f"none in {len(answer['columns'])} columns"
    )


def _what_next(play: Play, into: Path) -> str:
    repo, model, asof = into / "feature_repo", play.script.model, _command()
    verbs = {
        f"drift {model}": "what changed, feature by feature",
        f"serve {model}": "answer requests at http://127.0.0.1:3000",
        "doctor": "is everything in order?",
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
    """How this asof is called from here: by name where the shell finds it, else by its path in the virtual environment."""
    installed = Path(sys.executable).with_name("asof")
    found = shutil.which("asof")
    if found and Path(found).resolve() == installed.resolve():
        return "asof"
    return os.path.relpath(installed) if installed.exists() else f"{os.path.relpath(sys.executable)} -m asof"
