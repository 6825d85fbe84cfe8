"""What ``asof profile``, ``drift``, ``skew``, ``performance`` and ``drill`` do: each version of a model is judged by its own bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from asof.bundle import Bundle, versions
from asof.console import progress
from asof.errors import NoPredictionsError, UsageError
from asof.instants import format_moment
from asof.monitoring.observed import BEGINNING, END, NOTHING_TO_JUDGE, Log, Window
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo

if TYPE_CHECKING:
    from asof.monitoring.drift import DriftReport
    from asof.monitoring.drill import ColumnChange, DrillReport
    from asof.monitoring.performance import PerformanceReport
    from asof.monitoring.profiling import ProfileReport, Unit
    from asof.monitoring.skew import SkewReport

Report = TypeVar("Report", bound=Rendered)


@dataclass(frozen=True)
class LogSpan:
    """The part of a prediction log that a verb looks at.

    Attributes:
        model: Name of the model.
        start: Start of the span in microseconds, by the moments of the requests; None for the beginning of the log.
        end: End of the span; this moment is not included.
        version: Version of the model; None for every version with predictions in the span.
        folder: Folder of prediction logs; None for that of the repo.
    """

    model: str
    start: int | None = None
    end: int | None = None
    version: str | None = None
    folder: Path | None = None

    @property
    def window(self) -> Window:
        """The moments of the span.

        Raises:
            UsageError: It ends before it starts.
        """
        window = Window(BEGINNING if self.start is None else self.start, END if self.end is None else self.end)
        if window.start >= window.end:
            told = [None if moment is None else format_moment(moment) for moment in (self.start, self.end)]
            raise UsageError(f"got --from {told[0]} and --to {told[1]}, expected the first to be earlier")
        return window

    def logs(self, repo: Repo) -> list[Log]:
        """The log of each version to judge; that of the newest where none has predictions.

        A version whose bundle is gone is named among the problems of the first log.

        Raises:
            NotFoundError: There is no such model or version, or no log of it; or the bundles of all versions to judge are gone.
            NoPredictionsError: Nothing was served yet.
        """
        newest = Log(
            self.folder or repo.settings.predictions, Bundle.find(repo.settings.models, self.model, self.version)
        )
        if self.folder is None and not (newest.folder / self.model).is_dir():
            raise NoPredictionsError(
                f"model {self.model!r} has no predictions yet, so there is nothing to judge; serve it with `asof build {self.model}` and "
                f"`asof serve {self.model}`, or name the folder of another log with --log"
            )
        served = [] if self.version else newest.versions(self.window)
        held = [one for one in served if one in versions(repo.settings.models, self.model)] or served
        logs = [Log(newest.folder, Bundle.find(repo.settings.models, self.model, one), []) for one in held]
        if gone := sorted(set(served) - set(held)):
            told = f"predictions of {', '.join(gone)} were not judged: the bundle is gone; restore its folder in {repo.settings.models / self.model}"
            logs[0].problems.append(told)
        return logs or [replace(newest, problems=[])]


@dataclass(frozen=True, repr=False)
class VersionReports(Rendered, Sequence[Report], Generic[Report]):
    """A report for each version of a model that was judged, oldest first."""

    model: str
    reports: tuple[Report, ...]

    def __len__(self) -> int:
        return len(self.reports)

    @overload
    def __getitem__(self, index: int) -> Report: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Report, ...]: ...
    def __getitem__(self, index: int | slice) -> Report | tuple[Report, ...]:
        return self.reports[index]

    @property
    def exit_code(self) -> int:
        """The code of the version that most needs attention; 4 only if none could be judged."""
        codes = {report.exit_code for report in self.reports}
        return next(code for code in (3, 1, 0, NOTHING_TO_JUDGE) if code in codes)

    def parts(self) -> Iterator[str | ResultTable]:
        """The reports, one after the other."""
        for number, report in enumerate(self.reports):
            if number:
                yield ""
            yield from report.parts()

    def to_dict(self) -> dict[str, Any]:
        """The report, or the list of them if there are several, as JSON-ready data."""
        listed = [dict(report.to_dict()) for report in self.reports]
        return listed[0] if len(listed) == 1 else {"model": self.model, "versions": listed}


def profile(repo: Repo, span: LogSpan, *, by: Unit = "day") -> VersionReports[ProfileReport]:
    """Write whylogs profiles of features and scores, one file for each day or hour.

    Args:
        repo: The feature repo.
        span: What to look at.
        by: Period of one profile.

    Raises:
        NotFoundError: There is no such model or version, or no log of it.
    """
    from asof.monitoring.profiling import profile as run

    def judge(log: Log) -> ProfileReport:
        with progress("profiling") as line:
            return run(log, span.window, repo.settings.profiles, by, line.advance)

    return VersionReports(span.model, tuple(map(judge, span.logs(repo))))


def drift(
    repo: Repo,
    span: LogSpan,
    *,
    html: Path | None = None,
    alpha: float | None = None,
    minimum_effect: float | None = None,
) -> VersionReports[DriftReport]:
    """Compare served features and scores with the training rows.

    Args:
        repo: The feature repo.
        span: What to look at.
        html: File of the HTML report; by default in data/reports.
        alpha: Chance of any false alarm in the whole report; by default 0.01.
        minimum_effect: Hellinger distance from which a change matters; by default 0.1.

    Raises:
        NotFoundError: There is no such model or version, or no log of it.
    """
    from asof.monitoring.comparison import Rule
    from asof.monitoring.drift import drift as run
    from asof.monitoring.report import write_html

    given = {"alpha": alpha, "minimum_effect": minimum_effect}
    rule = Rule(**{name: value for name, value in given.items() if value is not None})
    logs = span.logs(repo)

    def judge(log: Log) -> DriftReport:
        version = log.bundle.version
        with progress("counting") as line:
            report = run(log, span.window, rule, line.advance)
        page = html or _unused(repo.settings.reports / f"drift-{span.model}-{version}-{_days(report)}.html")
        if html and len(logs) > 1:
            page = html.with_name(f"{html.stem}-{version}{html.suffix}")
        write_html(report, page)
        return replace(report, page=page)

    return VersionReports(span.model, tuple(map(judge, logs)))


def skew(repo: Repo, span: LogSpan) -> VersionReports[SkewReport]:
    """Recompute every served feature from the tables and count the differences.

    Args:
        repo: The feature repo.
        span: What to look at.

    Raises:
        NotFoundError: There is no such model or version, or no log of it.
        SourceError: The tables cannot be read.
    """
    from asof.monitoring.skew import offline
    from asof.monitoring.skew import skew as run

    def judge(log: Log) -> SkewReport:
        recompute = offline(log.bundle.contract, repo.path, log.bundle.code)
        with progress("recomputing") as line:
            return run(log, span.window, recompute, line.advance)

    return VersionReports(span.model, tuple(map(judge, span.logs(repo))))


def performance(repo: Repo, span: LogSpan) -> VersionReports[PerformanceReport]:
    """Compare the model's metrics on labels known by now with those at training.

    Args:
        repo: The feature repo.
        span: What to look at.

    Raises:
        NotFoundError: There is no such model or version, or no log of it.
        SourceError: A table cannot be read.
    """
    from asof.monitoring.performance import performance as run

    def judge(log: Log) -> PerformanceReport:
        with progress("matching labels") as line:
            return run(log, span.window, repo.path, repo.settings.data, line.advance)

    return VersionReports(span.model, tuple(map(judge, span.logs(repo))))


def drill(
    repo: Repo, span: LogSpan, changes: Sequence[ColumnChange], output: Path, *, share: float = 1.0, seed: int = 0
) -> VersionReports[DrillReport]:
    """Write a changed copy of the prediction log, to test whether drift is detected.

    Args:
        repo: The feature repo.
        span: What to copy.
        changes: Changes of the chosen rows.
        output: Folder of the copy.
        share: Share of the rows that are changed, 0 to 1.
        seed: Seed that selects the rows to change.

    Raises:
        NotFoundError: There is no such model or version, or a column is neither a request field nor a feature.
        UsageError: There is nothing to change, or the folder holds a log already.
    """
    from asof.monitoring.drill import manipulate

    if not changes:
        raise UsageError("got nothing to change, expected --scale, --add, --set or --missing")
    done: list[DrillReport] = []
    for log in span.logs(repo):
        with progress("copying") as line:
            report = manipulate(
                log, span.window, output, changes, share=share, seed=seed, append=bool(done), advance=line.advance
            )
        done.append(report)
    return VersionReports(span.model, tuple(done))


def _days(report: DriftReport) -> str:
    """The first and the last day seen, for a file name."""
    days = [format_moment(moment)[:10] for moment in (report.first, report.last) if moment is not None]
    return "-to-".join(dict.fromkeys(days)) or "nothing"


def _unused(path: Path) -> Path:
    """``path``, numbered if there is such a file."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(p for p in chain([path], numbered) if not p.exists())
