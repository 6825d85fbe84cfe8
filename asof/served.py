"""Which versions of a model are served from this repo: the service built last, and versions with predictions of the last days.

A service that runs elsewhere and writes its prediction log elsewhere is not known here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from asof.instants import DAY, format_moment
from asof.settings import RepoSettings

RECENT = 7 * DAY
"""A version with a prediction in the last so many microseconds, by the server's clock, counts as served."""

_PART = re.compile(r"part-(?P<written>\d+)-(?P<process>\d+)-[0-9a-f]+\.parquet")


def served_versions(settings: RepoSettings, model: str, now: int | None = None) -> dict[str, str]:
    """Version of ``model`` -> how it is known to be served: "built for serving", or "predicted until <moment>".

    Args:
        settings: The repo.
        model: Name of the model.
        now: The wall clock in microseconds; by default the real one.
    """
    clock = time.time_ns() // 1_000 if now is None else now
    found: dict[str, str] = {}
    for written, file in sorted(_recent_files(settings.predictions / model, clock - RECENT)):
        found |= {version: f"predicted until {format_moment(written)}" for version in _versions(file)}
    newest = max(_built(settings.bentoml / "bentos", model), default=None)
    return found | ({newest[1]: "built for serving"} if newest else {})


def _built(store: Path, model: str) -> Iterator[tuple[float, str]]:
    """Time of building and version of each Bento of ``model``."""
    import yaml

    for file in store.glob("*/*/bento.yaml"):
        try:
            payload: Any = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
            labels = payload["labels"]
            if labels["model"] == model:
                yield file.stat().st_mtime, str(labels["model_version"])
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            continue  # another program's Bento


def _recent_files(folder: Path, since: int) -> Iterator[tuple[int, Path]]:
    """When it was written, and the file: for each hour and process the last one, because a process serves one version."""
    for hour in folder.glob("hour=*"):
        if hour.stat().st_mtime_ns // 1_000 < since:
            continue
        last: dict[str, tuple[int, Path]] = {}
        for entry in os.scandir(hour):
            match = _PART.fullmatch(entry.name)
            written = int(match["written"]) if match else 0
            if match and written >= since:
                last[match["process"]] = max(last.get(match["process"], (0, hour)), (written, Path(entry.path)))
        yield from last.values()


def _versions(file: Path) -> set[str]:
    try:
        with pq.ParquetFile(file) as opened:
            return set(opened.read(columns=["model_version"], use_threads=False)["model_version"].to_pylist())
    except (OSError, pa.ArrowException, KeyError):
        return set()  # commands of monitoring report files that cannot be read
