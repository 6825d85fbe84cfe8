"""``asof profile``, ``drift``, ``skew``, ``performance`` and ``drill``: evaluate the prediction log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from asof.bundle import Bundle
from asof.cli import repo_option
from asof.console import emit, progress
from asof.errors import UsageError
from asof.instants import format_moment, parse_moment
from asof.monitoring.observed import BEGINNING, END, Log, Window
from asof.repo import Repo

if TYPE_CHECKING:
    from asof.monitoring.drift import DriftReport

Command = TypeVar("Command", bound=Callable[..., Any])


def _shared(command: Command) -> Command:
    """The options of every command that reads a prediction log."""
    for option in reversed(
        [
            click.argument("model", metavar="MODEL"),
            click.option(
                "--from",
                "start",
                metavar="TIME",
                help="Start of the span, by the moments of the requests; by default the whole log.",
            ),
            click.option("--to", "end", metavar="TIME", help="End of the span; this moment is not included."),
            click.option(
                "--version",
                "version",
                metavar="VERSION",
                help="Version of the model; by default every version with predictions in the span, each by its own bundle.",
            ),
            click.option(
                "--log",
                "folder",
                metavar="DIR",
                type=click.Path(path_type=Path),
                help="Folder of prediction logs; by default that of the repo.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.command()
@_shared
@click.option(
    "--by", "unit", type=click.Choice(["hour", "day"]), default="day", show_default=True, help="Span of one profile."
)
@click.pass_context
def profile(
    ctx: click.Context,
    model: str,
    start: str | None,
    end: str | None,
    version: str | None,
    folder: Path | None,
    unit: Any,
) -> None:
    """Write whylogs profiles of features and scores, one file for each day or hour.

    Profiles can be merged, and whylogs can read them. Days and hours whose log did not change are skipped.

    Example: asof profile fraud --from 2018-08-08 --to 2018-08-15
    """
    from asof.monitoring.profiling import profile as run

    repo, logs, window = _opened(ctx, model, version, folder, start, end)
    judged = []
    for log in logs:
        with progress("profiling") as line:
            report = run(log, window, repo.settings.profiles, unit, line.advance)
        code = _code(report.problems, judged=bool(report.profiles), alarm=False)
        judged.append(_Judged(report.to_dict(), report.to_text(), code))
    _finish(ctx, model, judged)


@click.command()
@_shared
@click.option(
    "--html",
    "html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File of the HTML report; by default in data/reports.",
)
@click.option(
    "--alpha", type=click.FloatRange(0, 1), help="Chance of any false alarm in the whole report (default 0.01)."
)
@click.option(
    "--minimum-effect",
    type=click.FloatRange(0, 1),
    help="Hellinger distance from which a change matters (default 0.1).",
)
@click.pass_context
def drift(
    ctx: click.Context,
    model: str,
    start: str | None,
    end: str | None,
    version: str | None,
    folder: Path | None,
    html: Path | None,
    alpha: float | None,
    minimum_effect: float | None,
) -> None:
    """Compare served features and scores with the training rows.

    Reports for every feature and for the scores whether their values or their share of missing values drifted, and writes an HTML
    page with charts that opens offline. Exit code 1 when something drifted, 4 when there are no predictions in the span.

    Example: asof drift fraud --from 2018-08-08 --to 2018-08-15
    """
    from asof.monitoring.comparison import Rule
    from asof.monitoring.drift import drift as run
    from asof.monitoring.report import write_html

    repo, logs, window = _opened(ctx, model, version, folder, start, end)
    given = {"alpha": alpha, "minimum_effect": minimum_effect}
    rule = Rule(**{name: value for name, value in given.items() if value is not None})
    judged = []
    for log in logs:
        with progress("counting") as line:
            report = run(log, window, rule, line.advance)
        target = html or _unused(repo.settings.reports / f"drift-{model}-{log.bundle.version}-{_days(report)}.html")
        if html and len(logs) > 1:
            target = html.with_name(f"{html.stem}-{log.bundle.version}{html.suffix}")
        write_html(report, target)
        code = _code(report.problems, judged=report.rows > 0, alarm=report.drifted)
        text = f"{report.to_text()}\n\nReport: {target}"
        judged.append(_Judged({**report.to_dict(), "report": str(target)}, text, code))
    _finish(ctx, model, judged)


@click.command()
@_shared
@click.pass_context
def skew(
    ctx: click.Context, model: str, start: str | None, end: str | None, version: str | None, folder: Path | None
) -> None:
    """Recompute every served feature from the tables and count the differences.

    Integers and texts must be equal, floats within 1e-9 relative. Exit code 1 when a value differs, 3 when
    no file of the log can be read, 4 when there are no predictions in the span.

    Example: asof skew fraud --from 2018-08-08 --to 2018-08-15
    """
    from asof.monitoring.skew import offline
    from asof.monitoring.skew import skew as run

    repo, logs, window = _opened(ctx, model, version, folder, start, end)
    judged = []
    for log in logs:
        recompute = offline(log.bundle.contract, repo.path, log.bundle.code)
        with progress("recomputing") as line:
            report = run(log, window, recompute, line.advance)
        code = _code(report.problems, judged=report.rows > 0, alarm=report.mismatches > 0)
        judged.append(_Judged(report.to_dict(), report.to_text(), code))
    _finish(ctx, model, judged)


@click.command()
@_shared
@click.pass_context
def performance(
    ctx: click.Context, model: str, start: str | None, end: str | None, version: str | None, folder: Path | None
) -> None:
    """Compare the model's metrics on labels known by now with those at training.

    Shows area under the ROC curve, average precision and log loss with 95 % intervals, and calibration. Exit code 1 when one of them
    is worse than at training and the two intervals do not overlap, 4 when too few labels are known to judge.

    Example: asof performance fraud --from 2018-08-08 --to 2018-08-15
    """
    from asof.monitoring.performance import performance as run

    repo, logs, window = _opened(ctx, model, version, folder, start, end)
    judged = []
    for log in logs:
        with progress("matching labels") as line:
            report = run(log, window, repo.path, repo.settings.data, line.advance)
        code = _code(report.problems, judged=bool(report.figures), alarm=bool(report.worse))
        judged.append(_Judged(report.to_dict(), report.to_text(), code))
    _finish(ctx, model, judged)


@click.command()
@_shared
@click.option("--scale", multiple=True, metavar="COLUMN=FACTOR", help="Multiply a request field or a feature.")
@click.option("--add", multiple=True, metavar="COLUMN=NUMBER", help="Add to a request field or a feature.")
@click.option(
    "--set",
    "replace",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Replace the values, for example with another category.",
)
@click.option("--missing", multiple=True, metavar="COLUMN", help="Remove the values.")
@click.option(
    "--share", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of the rows that are changed."
)
@click.option("--seed", default=0, show_default=True, help="Seed that selects the rows to change.")
@click.option(
    "-o", "--output", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the copy."
)
@click.pass_context
def drill(
    ctx: click.Context,
    model: str,
    start: str | None,
    end: str | None,
    version: str | None,
    folder: Path | None,
    scale: tuple[str, ...],
    add: tuple[str, ...],
    replace: tuple[str, ...],
    missing: tuple[str, ...],
    share: float,
    seed: int,
    output: Path,
) -> None:
    """Write a changed copy of the prediction log, to test whether drift is detected.

    On-demand features that read a changed request field and the scores are recomputed. Then run: asof drift MODEL --log DIR

    Example: asof drill fraud --scale tx_amount=5 --share 0.33 -o drill
    """
    from dataclasses import asdict

    from asof.monitoring.drill import ColumnChange, manipulate

    _, logs, window = _opened(ctx, model, version, folder, start, end)
    changes = [ColumnChange(name, "scale", float(value)) for name, value in _pairs("--scale", scale, number=True)]
    changes += [ColumnChange(name, "add", float(value)) for name, value in _pairs("--add", add, number=True)]
    changes += [ColumnChange(name, "set", value) for name, value in _pairs("--set", replace, number=False)]
    changes += [ColumnChange(name, "missing") for name in missing]
    if not changes:
        raise UsageError("got nothing to change, expected --scale, --add, --set or --missing")
    judged: list[_Judged] = []
    for log in logs:
        with progress("copying") as line:
            report = manipulate(
                log, window, output, changes, share=share, seed=seed, append=bool(judged), advance=line.advance
            )
        said = f"{report.changed:,} of {report.rows:,} rows changed; now run: asof drift {model} --log {output}"
        code = _code(log.problems, judged=report.rows > 0, alarm=False)
        judged.append(_Judged({**asdict(report), "version": log.bundle.version}, said, code))
    _finish(ctx, model, judged)


@dataclass(frozen=True, slots=True)
class _Judged:
    """The answer for one version."""

    payload: dict[str, Any]
    text: str
    code: int


NOTHING_TO_JUDGE = 4
"""Exit code where the span has no predictions, or none whose label is known."""


def _code(problems: Sequence[str], *, judged: bool, alarm: bool) -> int:
    """The exit code for one version; 3 where its log could not be read."""
    if judged:
        return int(alarm)
    return 3 if problems else NOTHING_TO_JUDGE


def _finish(ctx: click.Context, model: str, judged: list[_Judged]) -> None:
    """Print the answers; the exit code is that of the version that most needs attention, 4 only if none was judged."""
    if len(judged) == 1:
        emit(judged[0].payload, judged[0].text)
    else:
        emit({"model": model, "versions": [j.payload for j in judged]}, "\n\n".join(j.text for j in judged))
    codes = {j.code for j in judged}
    ctx.exit(next(code for code in (3, 1, 0, NOTHING_TO_JUDGE) if code in codes))


def _days(report: DriftReport) -> str:
    """The first and the last day seen, for a file name."""
    days = [format_moment(moment)[:10] for moment in (report.first, report.last) if moment is not None]
    return "-to-".join(dict.fromkeys(days)) or "nothing"


def _unused(path: Path) -> Path:
    """``path``, numbered if there is such a file."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(p for p in chain([path], numbered) if not p.exists())


def _opened(
    ctx: click.Context, model: str, version: str | None, folder: Path | None, start: str | None, end: str | None
) -> tuple[Repo, list[Log], Window]:
    window = Window(BEGINNING if start is None else parse_moment(start), END if end is None else parse_moment(end))
    if window.start >= window.end:
        raise UsageError(f"got --from {start} and --to {end}, expected the first to be earlier")
    repo = Repo.open(repo_option(ctx))
    newest = Log(folder or repo.settings.predictions, Bundle.find(repo.settings.models, model, version))
    served = [] if version else newest.versions(window)
    logs = [Log(newest.folder, Bundle.find(repo.settings.models, model, one), []) for one in served]
    return repo, logs or [replace(newest, problems=[])], window


def _pairs(option: str, given: tuple[str, ...], *, number: bool) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals or (number and not _is_number(value)):
            raise UsageError(f"got {option} {text!r}, expected COLUMN={'NUMBER' if number else 'VALUE'}")
        pairs.append((name, value))
    return pairs


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
