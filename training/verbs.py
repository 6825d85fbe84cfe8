"""What ``asof train`` and ``asof models`` do."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from asof import task
from asof.bundle import Bundle, versions
from asof.console import progress
from asof.errors import BundleError, NotFoundError
from asof.quantities import counted
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo
from asof.settings import RepoSettings

if TYPE_CHECKING:
    from asof.training.metrics import MetricResult
    from asof.training.publish import DecisionResult, Run
    from asof.training.split import GivenSpans


@dataclass(frozen=True, repr=False)
class TrainedModel(Rendered):
    """A training run and its bundle.

    Attributes:
        run: The run.
        bundle: The model version that was written; None if a threshold was missed or the leak check found something.
    """

    run: Run
    bundle: Bundle | None

    @property
    def exit_code(self) -> int:
        """1 if no bundle was written."""
        return 1 if self.bundle is None else 0

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON-ready data."""
        run, bundle = self.run, self.bundle
        return {
            "model": run.model.name,
            "version": bundle.version if bundle else None,
            "bundle": str(bundle.path) if bundle else None,
            "service": run.contract.service,
            "fingerprint": run.contract.fingerprint,
            "features": len(run.names),
            "unused": run.unused,
            "metrics": {name: asdict(figure) for name, figure in run.figures.items()},
            "baselines": {name: {m: asdict(one) for m, one in found.items()} for name, found in run.baselines.items()},
            "unbeaten": run.unbeaten,
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

    def parts(self) -> Iterator[str | ResultTable]:
        """Spans, metrics, the decision, leaks, and where the bundle is, as paragraphs."""
        for number, part in enumerate(_paragraphs(self.run, self.bundle)):
            yield from ["", part] if number else [part]


def _paragraphs(run: Run, bundle: Bundle | None) -> Iterator[str | ResultTable]:
    moments = run.split
    rows = [
        (name, moments[start], moments[end], moments[f"{name}_rows"], _labels(run, name))
        for name, start, end in (
            ("train", "train_start", "train_end"),
            ("gap", "train_end", "test_start"),
            ("test", "test_start", "test_end"),
        )
    ]
    figures = [
        (
            name,
            *(f"{v:.4f}" for v in (f.value, f.low, f.high)),
            _verdict(f),
            *(f"{b[name].value:.4f}" for b in run.baselines.values()),
        )
        for name, f in run.figures.items()
    ]
    named = {"binary": "positives", "multiclass": "rows by class"}.get(run.fitted.task.kind, "mean label")
    yield f"model {run.model.name}: {counted(len(run.names), 'feature')} of {run.contract.service}, {counted(run.fitted.trees, 'tree')}"
    if run.unused:
        yield _unused(run)
    yield ResultTable(("span", "from", "to", "rows", named), rows)
    if moments["test_left_out"]:
        yield f"left out of the test span, known before: {counted(moments['test_left_out'], 'row')}"
    if moments["train_late_labels"]:
        yield f"labels too late to learn from: {moments['train_late_labels']:,}"
    yield ResultTable(("metric", "value", "95 % from", "to", "threshold", *run.baselines), figures)
    if run.unbeaten:
        yield _unbeaten(run)
    if run.decided:
        yield _decision(run.decided)
    yield from [f"leak ({leak.kind}): {leak.line}" for leak in run.leaks] or ["leak check: nothing found"]
    yield _ending(run, bundle)


def train(
    repo: Repo,
    model: str,
    *,
    models: Path | None = None,
    given: GivenSpans | None = None,
    force: bool = False,
    allow_leak: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> TrainedModel:
    """Train a model, evaluate it, and write its bundle.

    Args:
        repo: The feature repo.
        model: Name of the model.
        models: Folder with model declarations that override others of the same name.
        given: Bounds of spans that are fixed.
        force: Write the bundle even if a threshold was missed.
        allow_leak: Write the bundle even if the leak check found something.
        warn: Called with a line about each file of models that cannot be read.

    Raises:
        NotFoundError: The model, its service or a table is not declared.
        SettingsError: The declaration is wrong.
        SourceError: A table is missing, empty or cannot be read.
        UsageError: The spans do not fit the rows.
    """
    from asof.training import catalog, pipeline

    started = time.monotonic()
    declared = catalog.declared(repo.path, models)
    chosen = declared.find(model)
    for line in declared.unreadable:
        warn(f"{line}; no model is taken from it")
    with progress("training") as shown:
        material = pipeline.gather(repo, chosen, given, say=shown.say)
        run, reference = pipeline.learn(material, say=shown.say, started=started)
        good = (force or not run.missed) and (allow_leak or not run.leaks)
        shown.say("writing the bundle")
        bundle = pipeline.save(run, reference, repo) if good else None
    return TrainedModel(run, bundle)


@dataclass(frozen=True)
class ModelVersion:
    """A trained version of a model: what its bundle says, or why the bundle cannot be read (``fault``)."""

    model: str
    version: str
    path: str
    created: str | None = None
    service: str | None = None
    fingerprint: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The version whose bundle is at ``path``."""
        names = ("created", "service", "fingerprint", "metrics", "split")
        try:
            known = Bundle.open(path).metadata
            told: dict[str, Any] = {name: known.get(name) for name in names}
            return cls(path.parent.name, path.name, str(path), **told)
        except (BundleError, OSError, ValueError) as error:
            return cls(path.parent.name, path.name, str(path), fault=str(error))

    @property
    def told(self) -> str:
        """The metrics, or the fault."""
        figures = (f"{name} {figure['value']:.4f}" for name, figure in (self.metrics or {}).items())
        return f"damaged: {self.fault}" if self.fault else ", ".join(figures)


@dataclass(frozen=True, repr=False)
class TrainedVersions(Rendered, Sequence[ModelVersion]):
    """The trained versions of models, newest first."""

    versions: tuple[ModelVersion, ...]

    def __len__(self) -> int:
        return len(self.versions)

    @overload
    def __getitem__(self, index: int) -> ModelVersion: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ModelVersion, ...]: ...
    def __getitem__(self, index: int | slice) -> ModelVersion | tuple[ModelVersion, ...]:
        return self.versions[index]

    def parts(self) -> Iterator[str | ResultTable]:
        """One line for each version."""
        if not self.versions:
            yield "no model was trained here yet; train one with `asof train MODEL`"
            return
        rows = [(v.model, v.version, v.created, v.service, v.fingerprint, v.told) for v in self.versions]
        yield ResultTable(("model", "version", "created", "service", "fingerprint", "metrics"), rows)

    def to_dict(self) -> dict[str, Any]:
        """The versions as JSON-ready data."""
        return {"models": [asdict(version) for version in self.versions]}


def models(settings: RepoSettings, model: str | None = None) -> TrainedVersions:
    """The trained models, or the versions of one, newest first.

    Raises:
        NotFoundError: No version of this model was trained.
    """
    names = sorted(p.name for p in settings.models.iterdir() if p.is_dir()) if settings.models.is_dir() else []
    names = [name for name in names if versions(settings.models, name)]
    if model is not None and model not in names:
        raise NotFoundError("trained model", model, names)
    return TrainedVersions(
        tuple(
            ModelVersion.read(settings.models / name / version)
            for name in ([model] if model else names)
            for version in reversed(versions(settings.models, name))
        )
    )


def _labels(run: Run, span: str) -> Any:
    """What the labels of a span are like."""
    split = run.split
    if run.fitted.task.kind == "binary":
        return split[f"{span}_positives"]
    if run.fitted.task.kind == "multiclass":
        return ", ".join(f"{name} {rows:,}" for name, rows in split[f"{span}_classes"].items())
    return split[f"{span}_mean_label"]


def _unbeaten(run: Run) -> str:
    first = run.model.metrics[0].name
    found = [(name, run.baselines[name][first]) for name in run.unbeaten]
    said = [f"{name} (the model is better by {one.low:.4f} to {one.high:.4f})" for name, one in found if one.high >= 0]
    worse = [f"{name} (by {-one.high:.4f} to {-one.low:.4f})" for name, one in found if one.high < 0]
    lines = [f"not better beyond chance than the baseline {', '.join(said)}"] if said else []
    lines += [f"worse than the baseline {', '.join(worse)}"] if worse else []
    return f"by {first}, the model is {' and '.join(lines)}"


def _decision(decided: DecisionResult) -> str:
    return (
        f"decision from a score of {decided.threshold:.4f} ({decided.how}): precision {decided.precision:.3f}, "
        f"recall {decided.recall:.3f}"
    )


def _unused(run: Run) -> str:
    named = ", ".join(f"{name} ({dtype})" for name, dtype in run.unused.items())
    return f"{len(run.unused)} of {counted(len(run.contract.features), 'feature')} not used: {named}; only numbers, booleans and declared categories enter the model"


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
