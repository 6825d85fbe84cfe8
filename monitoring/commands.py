"""``asof profile``, ``drift``, ``skew``, ``performance`` and ``drill``: evaluate the prediction log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from asof.cli import repo_option
from asof.console import show
from asof.errors import UsageError
from asof.instants import parse_moment
from asof.monitoring import verbs
from asof.repo import Repo

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
    show(ctx, verbs.profile(Repo.open(repo_option(ctx)), _span(model, start, end, version, folder), by=unit))


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
    span = _span(model, start, end, version, folder)
    repo = Repo.open(repo_option(ctx))
    show(ctx, verbs.drift(repo, span, html=html, alpha=alpha, minimum_effect=minimum_effect))


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
    show(ctx, verbs.skew(Repo.open(repo_option(ctx)), _span(model, start, end, version, folder)))


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
    show(ctx, verbs.performance(Repo.open(repo_option(ctx)), _span(model, start, end, version, folder)))


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
    from asof.monitoring.drill import ColumnChange

    changes = [ColumnChange(name, "scale", float(value)) for name, value in _pairs("--scale", scale, number=True)]
    changes += [ColumnChange(name, "add", float(value)) for name, value in _pairs("--add", add, number=True)]
    changes += [ColumnChange(name, "set", value) for name, value in _pairs("--set", replace, number=False)]
    changes += [ColumnChange(name, "missing") for name in missing]
    span = _span(model, start, end, version, folder)
    show(ctx, verbs.drill(Repo.open(repo_option(ctx)), span, changes, output, share=share, seed=seed))


def _span(model: str, start: str | None, end: str | None, version: str | None, folder: Path | None) -> verbs.LogSpan:
    first, last = (None if text is None else parse_moment(text) for text in (start, end))
    return verbs.LogSpan(model, first, last, version, folder)


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
