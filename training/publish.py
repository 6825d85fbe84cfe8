"""Writes a finished run as a model bundle (:mod:`asof.bundle`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from asof import bundle, task
from asof.contract import Contract
from asof.instants import format_moment, to_micros
from asof.prediction_log import output_columns
from asof.revision import code_revision
from asof.training import provenance
from asof.training.fit import Fitted
from asof.training.leak import Leak
from asof.training.metrics import BaselineResult, MetricResult
from asof.training.model import Model


@dataclass(frozen=True)
class DecisionResult:
    """The decision threshold, how it was found, and precision, recall and share of positive decisions on the test rows."""

    threshold: float
    how: str
    precision: float
    recall: float
    share: float


@dataclass(frozen=True)
class Run:
    """The result of a training run.

    Attributes:
        model: The declaration.
        contract: The contract that it was trained under.
        fitted: The boosters.
        names: Features of the model's matrix, in order.
        categories: Categorical feature -> its values; the code of a value is its place.
        figures: Metric name -> result on the test rows.
        baselines: Baseline -> metric name -> its result on the test rows.
        split: Moments and counts, as :func:`asof.training.split.counts` gives them.
        decided: The decision threshold; None for tasks without decisions.
        leaks: Findings of the leak check.
        versions: Table -> version.
        digests: Source that is plain Parquet -> SHA-256 of its files.
        seconds: How long the run took.
    """

    model: Model
    contract: Contract
    fitted: Fitted
    names: tuple[str, ...]
    categories: Mapping[str, list[Any]]
    figures: Mapping[str, MetricResult]
    baselines: Mapping[str, Mapping[str, BaselineResult]]
    split: Mapping[str, Any]
    decided: DecisionResult | None
    leaks: tuple[Leak, ...]
    versions: Mapping[str, int]
    digests: Mapping[str, str]
    seconds: float

    @property
    def missed(self) -> list[str]:
        """Metrics that did not reach their thresholds."""
        return [name for name, figure in self.figures.items() if not figure.reached]

    @property
    def unbeaten(self) -> list[str]:
        """Baselines than which the model is not better beyond chance, by the first metric."""
        first = self.model.metrics[0].name
        return [name for name, found in self.baselines.items() if not found[first].beaten]

    @property
    def unused(self) -> dict[str, str]:
        """Feature -> type, of the service's features that do not enter the model: neither numbers nor declared as categories."""
        return {f.name: f.dtype for f in self.contract.features if f.name not in self.names}

    @property
    def digest(self) -> str:
        """SHA-256 of the boosters' texts: equal for equal inputs."""
        return hashlib.sha256("".join(self.fitted.texts).encode()).hexdigest()

    @property
    def files(self) -> dict[str, str]:
        """Name in the bundle -> text, of the boosters."""
        return {f"model-{i}.txt" if i else "model.txt": text for i, text in enumerate(self.fitted.texts)}


@dataclass(frozen=True)
class Reference:
    """The data of the model's reference, which monitoring compares with.

    Attributes:
        features: Features of the n training rows.
        outputs: float64[m, K], what the model gave for rows that it was not fitted on.
        keys: Entity key -> keys of the n training rows.
    """

    features: pa.Table
    outputs: npt.NDArray[np.float64]
    keys: Mapping[str, Any]


def publish(run: Run, reference: Reference, repo: Path, models: Path) -> bundle.Bundle:
    """Write ``run`` as the newest version of its model.

    Raises:
        BundleError: The same booster was already published within the same second.
    """
    from asof.statistics import profiles
    from asof.statistics.reference import reference as reference_of

    created = datetime.now(UTC)
    version = f"{created:%Y%m%d-%H%M%S}-{run.digest[:8]}"
    with bundle.writing(models, run.model.name, version) as folder:
        for name, text in run.files.items():
            (folder / name).write_text(text)
        (folder / "contract.json").write_text(run.contract.to_json())
        columns = {name: reference.features[name] for name in run.contract.feature_names}
        outputs = dict(zip(output_columns(run.fitted.task), reference.outputs.T, strict=True))
        bundle.write_json(folder / "reference.json", reference_of(run.contract, columns, outputs, reference.keys))
        tags = {"model": run.model.name, "version": version}
        (folder / "profile.bin").write_bytes(profiles.profile(reference.features, run.contract, metadata=tags))
        provenance.copy_code(run.contract, repo, folder / "code")
        bundle.write_json(folder / "metadata.json", metadata(run, version, created, repo))
    return bundle.Bundle.open(models / run.model.name / version)


def metadata(run: Run, version: str, created: datetime, repo: Path) -> dict[str, Any]:
    """The content of ``metadata.json``."""
    digest, lock = provenance.lock_hash(repo)
    return {
        "model": run.model.name,
        "version": version,
        "created": format_moment(to_micros(created)),
        "service": run.contract.service,
        "fingerprint": run.contract.fingerprint,
        "features": list(run.names),
        "categories": dict(run.categories),
        "unused": run.unused,
        "task": task.to_dict(run.fitted.task),
        "boosters": list(run.files),
        "decision": asdict(run.decided) if run.decided else None,
        "baselines": {name: {m: asdict(one) for m, one in found.items()} for name, found in run.baselines.items()},
        "unbeaten": run.unbeaten,
        "metrics": {name: asdict(figure) for name, figure in run.figures.items()},
        "parameters": {**run.fitted.parameters, "trees": run.fitted.trees},
        "importance": run.fitted.importance,
        "split": dict(run.split),
        "rows": rows(run.model),
        "label_delay": run.model.label_delay,
        "leaks": [leak.line for leak in run.leaks],
        "tables": dict(run.versions),
        "files": dict(run.digests),
        "booster_sha256": run.digest,
        "code_revision": code_revision(repo),
        "lock_hash": digest,
        "lock": lock,
    }


def rows(model: Model) -> dict[str, Any]:
    """The tables and columns of the scored rows and their labels, for replay and monitoring."""
    return {**asdict(model.rows), "keys": list(model.rows.keys)}
