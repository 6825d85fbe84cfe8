"""The verbs of the command line as methods: ``repo = asof.open("path")``, then ``repo.plan()``, ``repo.get("service", {"user_id": 1})``.

A method and its command call the same function, with the same defaults. Results print as the command prints them, and notebooks show
them as tables. What the command reports by its exit code is in the result's ``exit_code``; errors are those of :mod:`asof.errors`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from asof.console import progress_shown
from asof.instants import parse_moment, to_micros
from asof.repo import Repo
from asof.settings import RepoSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from asof.doctor import Diagnosis
    from asof.feast.apply import ApplyPlan
    from asof.monitoring.drift import DriftReport
    from asof.monitoring.drill import DrillReport
    from asof.monitoring.performance import PerformanceReport
    from asof.monitoring.profiling import ProfileReport
    from asof.monitoring.skew import SkewReport
    from asof.monitoring.verbs import LogSpan, VersionReports
    from asof.serving.build import BuiltService
    from asof.serving.replay import ReplayReport
    from asof.tables import IngestReport, TableHistory, TableStates, WriteReport
    from asof.training.verbs import TrainedModel, TrainedVersions
    from asof.verbs.clean import CleanedTables
    from asof.verbs.dataset import BuiltDataset
    from asof.verbs.get import KeyFeatures
    from asof.verbs.materialize import Materialized
    from asof.verbs.simulate import SimulatedFile

Moment = str | datetime
"""ISO 8601, or a ``datetime``; without an offset or a time zone it means UTC."""

File = str | Path

COMMAND_LINE_ONLY = {
    "demo": "runs the other verbs as processes, in a folder of its own",
    "init": "asks questions, and makes the repo that `asof.open` opens",
    "redis": "administers a process; the other methods start it when they need it",
    "serve": "becomes the server process",
    "stream": "runs until it is stopped",
}
"""Verb that has no method -> why."""

P = ParamSpec("P")
T = TypeVar("T")


def _verb(
    method: Callable[Concatenate[FeatureRepo, P], T],
) -> Callable[Concatenate[FeatureRepo, P], T]:
    """``method``, showing progress as the repo was opened."""

    @functools.wraps(method)
    def run(self: FeatureRepo, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with progress_shown(self.progress):
            return method(self, *args, **kwargs)

    return run


@dataclass(frozen=True, repr=False)
class FeatureRepo:
    """A feature repo whose methods are the verbs of the command line; :func:`asof.open` makes one.

    Attributes:
        path: Its folder.
        progress: Whether work that takes longer than a second shows its progress.
    """

    path: Path
    progress: bool = True

    @classmethod
    def open(cls, path: str | Path | None = None, *, progress: bool = True) -> Self:
        """See :func:`asof.open`."""
        return cls(RepoSettings.load(path).path, progress)

    def __repr__(self) -> str:
        return f"asof.open({str(self.path)!r})"

    @_verb
    def apply(self, *, force: bool = False) -> ApplyPlan:
        """Register the repo's definitions; returns what changed.

        Raises:
            SettingsError: A definition is wrong; nothing was changed.
            SchemaError: A definition does not fit its table; nothing was changed.
            CheckFailedError: It would break a version that is served, and ``force`` was not given; nothing was changed.
        """
        from asof.feast.apply import apply

        return apply(self._repo(), force=force)

    @_verb
    def build(self, model: str, *, version: str | None = None) -> BuiltService:
        """Build a Bento from a trained model, to serve it or to put it into a container."""
        from asof.serving.build import build

        return build(self._repo().settings, model, version)

    @_verb
    def clean(
        self, *tables: str, keep: File | Iterable[File] = (), hours: int = 168, dry_run: bool = False
    ) -> CleanedTables:
        """Delete files that no version in use needs, of the given tables or of all."""
        from asof.verbs.clean import clean_tables

        return clean_tables(self._repo(), tables, keep=_paths(keep), hours=hours, dry_run=dry_run)

    @_verb
    def dataset(
        self,
        service: str | None = None,
        *,
        entities: File | Any = None,
        output: File | None = None,
        at: str | None = None,
        like: File | None = None,
    ) -> BuiltDataset:
        """The features of a service for many rows, each as known at its own moment.

        ``entities`` is a Parquet or CSV file, a pyarrow table or a data frame. Without ``output`` the rows stay in memory: see the
        result's ``table``.
        """
        from asof.verbs.dataset import dataset

        given = Path(entities) if isinstance(entities, str | Path) else _table(entities)
        return dataset(self._repo(), service, given, _path(output), at=at, like=_path(like))

    @_verb
    def doctor(self) -> Diagnosis:
        """Check the installation and the feature repo."""
        from asof.doctor import doctor

        return doctor(self.path)

    @_verb
    def drift(
        self,
        model: str,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        version: str | None = None,
        log: File | None = None,
        html: File | None = None,
        alpha: float | None = None,
        minimum_effect: float | None = None,
    ) -> VersionReports[DriftReport]:
        """Compare served features and scores with the training rows: a report for each version."""
        from asof.monitoring.verbs import drift

        span = _span(model, start, end, version, log)
        return drift(self._repo(), span, html=_path(html), alpha=alpha, minimum_effect=minimum_effect)

    @_verb
    def drill(
        self,
        model: str,
        *,
        output: File,
        start: Moment | None = None,
        end: Moment | None = None,
        version: str | None = None,
        log: File | None = None,
        scale: Mapping[str, float] | None = None,
        add: Mapping[str, float] | None = None,
        set: Mapping[str, Any] | None = None,  # noqa: A002  the option's name
        missing: Iterable[str] = (),
        share: float = 1.0,
        seed: int = 0,
    ) -> VersionReports[DrillReport]:
        """Write a changed copy of the prediction log, to test whether drift is detected."""
        from asof.monitoring.drill import ColumnChange
        from asof.monitoring.verbs import drill

        changes = [ColumnChange(name, "scale", float(factor)) for name, factor in (scale or {}).items()]
        changes += [ColumnChange(name, "add", float(number)) for name, number in (add or {}).items()]
        changes += [ColumnChange(name, "set", value) for name, value in (set or {}).items()]
        changes += [ColumnChange(name, "missing") for name in missing]
        span = _span(model, start, end, version, log)
        return drill(self._repo(), span, changes, Path(output), share=share, seed=seed)

    @_verb
    def get(
        self, service: str, pairs: Mapping[str, Any] | Iterable[str] = (), *, at: Moment | None = None
    ) -> KeyFeatures:
        """The online features of a service for one key: a mapping of feature to value, with ``statuses``.

        ``pairs`` gives the entity keys and the request fields, as a mapping or as texts ``name=value``; a time field that is left
        out gets the value of ``at``.
        """
        from asof.verbs.get import get

        return get(self._repo(), service, pairs, at=_micros(at))

    @_verb
    def ingest(self, table: str, *files: File | Any) -> IngestReport:
        """Add rows to a table: those of Parquet or CSV files, of folders of them, or of one pyarrow table or data frame."""
        from asof.tables import ingest

        return ingest(self._repo(), table, _rows(files))

    @_verb
    def materialize(self, *views: str, start: Moment | None = None, end: Moment | None = None) -> Materialized:
        """Write values from the tables into the online store, of the given views or of all."""
        from asof.verbs.materialize import materialize

        return materialize(self._repo(), views, start=_micros(start), end=_micros(end))

    @_verb
    def models(self, model: str | None = None) -> TrainedVersions:
        """The trained models, or the versions of one, newest first."""
        from asof.training.verbs import models

        return models(self._repo().settings, model)

    @_verb
    def performance(
        self,
        model: str,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        version: str | None = None,
        log: File | None = None,
    ) -> VersionReports[PerformanceReport]:
        """Compare the model's metrics on labels known by now with those at training: a report for each version."""
        from asof.monitoring.verbs import performance

        return performance(self._repo(), _span(model, start, end, version, log))

    @_verb
    def plan(self) -> ApplyPlan:
        """What :meth:`apply` would change, and which trained models that would break; changes nothing."""
        from asof.feast.apply import plan

        return plan(self._repo())

    @_verb
    def profile(
        self,
        model: str,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        version: str | None = None,
        log: File | None = None,
        by: Literal["hour", "day"] = "day",
    ) -> VersionReports[ProfileReport]:
        """Write whylogs profiles of features and scores, one file for each day or hour."""
        from asof.monitoring.verbs import profile

        return profile(self._repo(), _span(model, start, end, version, log), by=by)

    @_verb
    def push(self, source: str, *files: File | Any) -> WriteReport:
        """Add rows to a table and, at once, to the online views that read from it; takes what :meth:`ingest` takes."""
        from asof.tables import push

        return push(self._repo(), source, _rows(files))

    @_verb
    def replay(
        self,
        model: str,
        *,
        start: Moment,
        end: Moment,
        data: File | Iterable[File] = (),
        limit: int | None = None,
        url: str = "http://127.0.0.1:3000",
        concurrency: int = 8,
        version: str | None = None,
        again: bool = False,
        stream: bool = False,
    ) -> ReplayReport:
        """Send recorded rows to the running service, in time order."""
        from asof.serving.verbs import replay

        return replay(
            self._repo(), model, _moment(start), _moment(end), data=_paths(data), limit=limit, url=url,
            concurrency=concurrency, version=version, again=again, stream=stream,
        )  # fmt: skip

    @_verb
    def simulate(self, /, *, output: File, **options: Any) -> SimulatedFile:
        """Make data with the simulator of the feature repo (its ``simulate.py``), whose parameters are the options."""
        from asof.verbs.simulate import simulate

        return simulate(self.path, Path(output), **options)

    @_verb
    def skew(
        self,
        model: str,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        version: str | None = None,
        log: File | None = None,
    ) -> VersionReports[SkewReport]:
        """Recompute every served feature from the tables and count the differences: a report for each version."""
        from asof.monitoring.verbs import skew

        return skew(self._repo(), _span(model, start, end, version, log))

    @_verb
    def tables(self, table: str | None = None) -> TableStates | TableHistory:
        """The state of every table, or the versions of one."""
        from asof.tables import tables

        return tables(self._repo(), table)

    @_verb
    def train(
        self,
        model: str,
        *,
        models: File | None = None,
        train_start: Moment | None = None,
        test_start: Moment | None = None,
        test_end: Moment | None = None,
        force: bool = False,
        allow_leak: bool = False,
    ) -> TrainedModel:
        """Train a model, evaluate it, and write its bundle.

        The result's ``bundle`` is None when a threshold was missed (unless ``force``) or the leak check found something (unless
        ``allow_leak``).
        """
        from asof.training.split import GivenSpans
        from asof.training.verbs import train

        given = GivenSpans(_micros(train_start), _micros(test_start), _micros(test_end))
        return train(self._repo(), model, models=_path(models), given=given, force=force, allow_leak=allow_leak)

    def _repo(self) -> Repo:
        """The repo opened anew, so that each call sees the definitions and settings as they are."""
        return Repo.open(self.path)


def _moment(given: Moment) -> int:
    return parse_moment(given) if isinstance(given, str) else to_micros(given)


def _micros(given: Moment | None) -> int | None:
    return None if given is None else _moment(given)


def _path(given: File | None) -> Path | None:
    return None if given is None else Path(given)


def _paths(given: File | Iterable[File]) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(one) for one in given]


def _table(given: Any) -> pa.Table:
    """Rows in memory as a pyarrow table; None as it is."""
    import pyarrow as pa

    return given if given is None or isinstance(given, pa.Table) else pa.table(given)


def _rows(files: Sequence[File | Any]) -> Any:
    """Paths, or the only argument as a table."""
    return _table(files[0]) if len(files) == 1 and not isinstance(files[0], str | Path) else _paths(files)


def _span(model: str, start: Moment | None, end: Moment | None, version: str | None, log: File | None) -> LogSpan:
    from asof.monitoring.verbs import LogSpan as Span

    return Span(model, _micros(start), _micros(end), version, _path(log))
