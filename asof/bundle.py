"""The model bundle: one folder with everything that a prediction needs and everything that explains it.

``<models>/<model>/<version>/`` holds::

    model.txt        the LightGBM booster, as text; model-1.txt and so on where a task has several
    contract.json    the contract it was trained under
    reference.json   frozen-edge histograms of features and scores at training time (asof.statistics.reference)
    profile.bin      the whylogs profile of the same rows
    code/            the repo's modules that on-demand functions live in
    metadata.json    metrics, parameters, table versions, digests of plain Parquet, code revision, lock hash, feature order, decision threshold
    manifest.json    SHA-256 of every other file; written last, so that a folder without it is not a bundle

Training writes bundles, serving and monitoring read them. A bundle never changes: a new training run makes a new version. A bundle
holds no pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from asof.atomic_file import replacing
from asof.categories import Vocabulary, coded
from asof.contract import Contract
from asof.errors import BundleError, NotFoundError
from asof.task import Binary, Task, from_dict

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A finished bundle on disk."""

    path: Path

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Self:
        """The bundle at ``path``.

        Raises:
            BundleError: The bundle is unfinished, or a file is missing or was changed.
        """
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{path} is not a finished model bundle ({error}); train again with `asof train`"
            ) from error
        for name, digest in manifest["files"].items() if verify else ():
            if not (path / name).is_file() or _digest(path / name) != digest:
                raise BundleError(
                    f"{path / name} is missing or was changed after training; train again with `asof train`"
                )
        return cls(path)

    @classmethod
    def find(cls, models: Path, model: str, version: str | None = None) -> Self:
        """The bundle of ``model`` in ``version``, by default the newest.

        Raises:
            NotFoundError: The model was never trained here, or has no such version.
            BundleError: The bundle is damaged.
        """
        names = sorted(p.name for p in models.iterdir() if versions(models, p.name)) if models.is_dir() else []
        if model not in names:
            raise NotFoundError("trained model", model, names)
        known = versions(models, model)
        if version is not None and version not in known:
            raise NotFoundError(f"version of model {model!r}", version, known)
        return cls.open(models / model / (version or known[-1]))

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.metadata["model"])

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return str(self.metadata["version"])

    @cached_property
    def contract(self) -> Contract:
        """The contract that the model was trained under."""
        return Contract.from_json((self.path / "contract.json").read_text())

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Metrics, parameters, data versions and code revision of the model."""
        loaded: dict[str, Any] = json.loads((self.path / "metadata.json").read_text())
        return loaded

    @cached_property
    def reference(self) -> dict[str, Any]:
        """Frozen-edge histograms of the training rows, as JSON data."""
        loaded: dict[str, Any] = json.loads((self.path / "reference.json").read_text())
        return loaded

    @cached_property
    def task(self) -> Task:
        """What the model predicts."""
        return from_dict(self.metadata["task"]) if "task" in self.metadata else Binary()

    @cached_property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """Categorical feature -> the codes of its values."""
        return {name: coded(values) for name, values in self.metadata.get("categories", {}).items()}

    @property
    def threshold(self) -> float | None:
        """The lowest score whose decision is positive; None for a model that decides nothing."""
        decision = self.metadata.get("decision")
        return float(decision["threshold"]) if decision else None

    @property
    def booster_files(self) -> tuple[Path, ...]:
        """The LightGBM model texts."""
        return tuple(self.path / name for name in self.metadata.get("boosters", ["model.txt"]))

    @property
    def profile_file(self) -> Path:
        """The whylogs profile of the training rows."""
        return self.path / "profile.bin"

    @property
    def code(self) -> Path:
        """Folder to put on ``sys.path`` for on-demand functions."""
        return self.path / "code"


def versions(models: Path, model: str) -> list[str]:
    """Finished versions of ``model``, oldest first."""
    folder = models / model
    return sorted(p.name for p in folder.iterdir() if (p / MANIFEST).is_file()) if folder.is_dir() else []


@contextmanager
def writing(models: Path, model: str, version: str) -> Iterator[Path]:
    """A folder to fill; on exit it becomes the bundle ``model``/``version``, atomically.

    Raises:
        BundleError: The version exists already.
    """
    target = models / model / version
    if target.exists():
        raise BundleError(f"model {model!r} has a version {version} already; versions never change")
    with replacing(target) as work:
        work.mkdir()
        yield work
        files = {str(p.relative_to(work)): _digest(p) for p in sorted(work.rglob("*")) if p.is_file()}
        write_json(work / MANIFEST, {"files": files})


def write_json(path: Path, payload: Mapping[str, Any]) -> None:
    """``payload`` as indented JSON with sorted keys, so that equal content is equal bytes."""
    path.write_text(json.dumps(payload, indent=1, sort_keys=True, default=str) + "\n")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
