"""Scores checked rows: reads features from Redis, runs on-demand functions and the booster, and decides.

Each worker has one predictor. It knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asof import feature_vectors
from asof.bundle import Bundle
from asof.contract import Contract, on_demand
from asof.errors import BundleError
from asof.online import Vectors
from asof.online.vectors import NOT_FOUND, NOT_KEPT, NULL, OUTSIDE_MAX_AGE, PRESENT
from asof.prediction_log import Entry
from asof.serving.booster import Booster
from asof.serving.feature_fetcher import FeatureFetcher
from asof.serving.request_rows import RequestRows
from asof.task import Binary, Quantiles, Ranking, Regression, combined

ROWS_AT_ONCE = 200
"""Rows up to which computing on the event loop is faster than handing over to a thread."""


@dataclass(frozen=True)
class Predictor:
    """Scores rows with one bundle.

    Args:
        bundle: The model.
        boosters: The bundle's boosters.
        fetcher: Reads stored features.
    """

    bundle: Bundle
    boosters: tuple[Booster, ...]
    fetcher: FeatureFetcher

    def __post_init__(self) -> None:
        unfit = [name for name in self.features if name not in self.contract.feature_names]
        read = {booster.features for booster in self.boosters}
        if unfit or read != {len(self.features)}:
            raise BundleError(
                f"model {self.bundle.model!r} reads {', '.join(map(str, sorted(read)))} features, its metadata names "
                f"{len(self.features)} (not in the contract: {unfit}); train again with `asof train`"
            )
        given = sum(booster.width for booster in self.boosters)
        if given != len(self.bundle.task.outputs):
            raise BundleError(
                f"model {self.bundle.model!r} gives {given} numbers for each row, its task needs {len(self.bundle.task.outputs)}; "
                "train again with `asof train`"
            )

    @property
    def contract(self) -> Contract:
        """The contract that the model was trained under."""
        return self.bundle.contract

    @property
    def features(self) -> Sequence[str]:
        """The features that the model reads, in the order it reads them."""
        named: Sequence[str] = self.bundle.metadata["features"]
        return named

    async def score(self, rows: RequestRows, request_id: str) -> Entry:
        """Score ``rows``.

        Returns:
            Everything that the response and the prediction log need.

        Raises:
            OnlineStoreError: Redis cannot be read.
            ContractError: What is stored does not fit the contract, or an on-demand function failed.
        """
        stored = await self.fetcher.read(rows.keys, rows.at)
        if len(rows.at) <= ROWS_AT_ONCE:
            return self._compute(rows, stored, request_id)
        return await asyncio.to_thread(self._compute, rows, stored, request_id)

    def warm(self) -> None:
        """Load everything that the first request would otherwise have to wait for.

        Raises:
            ContractError: An on-demand function cannot be imported.
        """
        on_demand.add_path(str(self.bundle.code))
        for view in self.contract.on_demand:
            on_demand.load(view.function)
        self._outputs(np.full((1, len(self.features)), np.nan))

    def _outputs(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return combined(self.bundle.task, [booster.predict(matrix) for booster in self.boosters])

    def _compute(self, rows: RequestRows, stored: Vectors, request_id: str) -> Entry:
        columns = feature_vectors.assemble(self.contract, _by_column(stored), rows.request)
        outputs = self._outputs(feature_vectors.matrix(self.contract, columns, self.features, self.bundle.vocabularies))
        return Entry(
            request_id=request_id,
            served_at=time.time_ns() // 1_000,
            at=rows.at,
            as_of=stored.as_of,
            keys=rows.keys,
            request=rows.request,
            vector=_numbers(self.contract, columns, len(rows.at)),
            objects={f.name: list(columns[f.name]) for f in self.contract.features if not f.numeric},
            statuses=self._statuses(stored, columns),
            event_times=stored.event_times,
            outputs=outputs,
        )

    @cached_property
    def _stored(self) -> tuple[list[int], list[int]]:
        """Positions of the stored features in the service, and of the same features in what a read returns."""
        columns = [(v.alias, name) for v in self.contract.views for name in self.contract.stored(v)]
        position = {column: i for i, column in enumerate(columns)}
        stored = [(i, position[f.view, f.feature]) for i, f in enumerate(self.contract.features) if not f.on_demand]
        return [i for i, _ in stored], [i for _, i in stored]

    def _statuses(self, stored: Vectors, columns: dict[str, feature_vectors.Column]) -> NDArray[np.uint8]:
        """The status of each feature; an on-demand feature is PRESENT or NULL."""
        found = np.full((len(stored.statuses), len(self.contract.features)), PRESENT, dtype=np.uint8)
        in_service, in_read = self._stored
        found[:, in_service] = stored.statuses[:, in_read]
        for i, feature in enumerate(self.contract.features):
            if feature.on_demand:
                values = columns[feature.name]
                missing = np.isnan(values) if isinstance(values, np.ndarray) else [v is None for v in values]
                found[np.asarray(missing, dtype=bool), i] = NULL
        return found


def response_body(bundle: Bundle, entry: Entry) -> dict[str, Any]:
    """The body of a response, as JSON-ready data."""
    names = bundle.contract.feature_names
    return {
        "predictions": [
            {
                "row": row,
                **answer,
                "request_id": entry.request_id,
                "model": bundle.model,
                "model_version": bundle.version,
                "missing": [n for n, s in zip(names, statuses, strict=True) if s in (NULL, NOT_FOUND)],
                "stale": [n for n, s in zip(names, statuses, strict=True) if s == OUTSIDE_MAX_AGE],
                "not_kept": [n for n, s in zip(names, statuses, strict=True) if s == NOT_KEPT],
            }
            for row, (answer, statuses) in enumerate(zip(_answers(bundle, entry), entry.statuses.tolist(), strict=True))
        ]
    }


def _answers(bundle: Bundle, entry: Entry) -> list[dict[str, Any]]:
    """What each row is answered with, as the task has it; :func:`asof.serving.api_types.response_type` describes it."""
    task, threshold = bundle.task, bundle.threshold
    scores = task.score(entry.outputs).tolist()
    if isinstance(task, Binary):
        return [{"score": score, "decision": threshold is not None and score >= threshold} for score in scores]
    if isinstance(task, Ranking):
        return [{"score": score, "rank": rank} for score, rank in zip(scores, _ranks(task, entry, scores), strict=True)]
    if isinstance(task, Regression):
        return [{"value": score} for score in scores]
    named = [dict(zip(task.outputs, row, strict=True)) for row in entry.outputs.tolist()]
    if isinstance(task, Quantiles):
        return [{"value": score, "quantiles": row} for score, row in zip(scores, named, strict=True)]
    return [
        {"class": chosen, "probabilities": row} for chosen, row in zip(task.chosen(entry.outputs), named, strict=True)
    ]


def _ranks(task: Ranking, entry: Entry, scores: Sequence[float]) -> list[int]:
    """The place of each row among the request's rows of its group, from 1; equal scores share a place."""
    groups = (entry.keys if task.group in entry.keys else entry.request)[task.group]
    falling: dict[Any, list[float]] = defaultdict(list)
    for score, group in sorted(zip(scores, groups, strict=True), key=lambda row: -row[0]):
        falling[group].append(-score)
    return [1 + bisect_left(falling[group], -score) for group, score in zip(groups, scores, strict=True)]


def _by_column(stored: Vectors) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = dict(zip(stored.columns, stored.values.T, strict=True))
    found.update(stored.objects)
    return found


def _numbers(contract: Contract, columns: dict[str, feature_vectors.Column], rows: int) -> NDArray[np.float64]:
    vector = np.full((rows, len(contract.features)), np.nan)
    for position, feature in enumerate(contract.features):
        if feature.numeric:
            vector[:, position] = columns[feature.name]
    return vector
