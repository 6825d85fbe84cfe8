"""Skew: compares every served value with the offline store's value for the same key and moment.

:func:`skew` reads the prediction log in batches, retrieves the same rows from the offline store with knowledge time on, each as of
the moment whose data its vector contains (``as_of`` in the log), under the contract in the model's bundle, and compares value by
value: integers, booleans and texts equal, floats within 1e-9 relative (single precision within its own last digit), missing with
missing. The goal is 0 mismatches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from asof.contract import Contract, Feature
from asof.contract.on_demand import add_path
from asof.instants import format_moment
from asof.monitoring.observed import Log, Window, judged_code, told, unused
from asof.quantities import counted
from asof.rendering import Rendered, ResultTable
from asof.statistics.histograms import TOLERANCE

EXAMPLES = 3
"""Mismatches that are shown for each feature."""

SINGLE = float(np.finfo(np.float32).eps)
"""Relative distance of neighbouring single-precision numbers; rounding may widen a difference of 1e-9 to this."""

Recompute = Callable[[pa.Table, str], pa.Table]
"""Entity rows and the name of their moment column -> the same rows with all features."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Example:
    """One mismatch: its request, the served value and the recomputed one."""

    request_id: str
    row: int
    at: str
    keys: Mapping[str, Any]
    served: Any
    recomputed: Any

    def __str__(self) -> str:
        keys = ", ".join(f"{name}={value}" for name, value in self.keys.items())
        return f"{keys} at {self.at}: served {self.served}, recomputed {self.recomputed} (request {self.request_id}, row {self.row})"


@dataclass(slots=True)
class FeatureSkew:
    """What was compared of one feature.

    Attributes:
        name: Name of the feature.
        view: View that it comes from.
        recomputed: Values that were compared.
        mismatches: Values that differ.
        largest: Largest relative difference of two numbers that differ; 0 where none do.
        one_missing: Mismatches in which one side is missing.
        examples: The first mismatches.
    """

    name: str
    view: str
    recomputed: int = 0
    mismatches: int = 0
    largest: float = 0.0
    one_missing: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True, slots=True, repr=False)
class SkewReport(Rendered):
    """What :func:`skew` found; features with mismatches first."""

    model: str
    version: str
    window: Window
    rows: int
    features: tuple[FeatureSkew, ...]
    problems: tuple[str, ...]

    @property
    def mismatches(self) -> int:
        """Values that differ, over all features."""
        return sum(feature.mismatches for feature in self.features)

    @property
    def recomputed(self) -> int:
        """Values that were compared, over all features."""
        return sum(feature.recomputed for feature in self.features)

    @property
    def summary(self) -> str:
        """The answer in one sentence."""
        if not self.rows:
            return "no predictions in this window, so nothing can be said"
        return f"{counted(self.mismatches, 'mismatch', 'mismatches')} in {counted(self.recomputed, 'value')} of {counted(self.rows, 'served vector')}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "model": self.model,
            "version": self.version,
            "window": self.window.to_dict(),
            "rows": self.rows,
            "recomputed": self.recomputed,
            "mismatches": self.mismatches,
            "summary": self.summary,
            "features": [asdict(feature) for feature in self.features],
            "problems": list(self.problems),
        }

    @property
    def exit_code(self) -> int:
        """1 if a value differs; see :func:`asof.monitoring.observed.judged_code`."""
        return judged_code(self.problems, judged=self.rows > 0, alarm=self.mismatches > 0)

    def parts(self) -> Iterator[str | ResultTable]:
        """The summary, a line for each feature, and examples."""
        header = ("feature", "from", "recomputed", "mismatches", "one missing", "largest difference")
        rows = [(f.name, f.view, f.recomputed, f.mismatches, f.one_missing, f.largest) for f in self.features]
        examples = [f"- {f.name}: {example}" for f in self.features for example in f.examples]
        yield from (f"{self.model} {self.version}, {self.window}", self.summary, "", ResultTable(header, rows), "")
        yield from (*examples, *told(self.problems))


def skew(log: Log, window: Window, recompute: Recompute, advance: Callable[[int], None] = lambda _: None) -> SkewReport:
    """Compare the logged vectors of a window with what ``recompute`` gives for the same keys, requests and moments.

    Args:
        log: The log, with the bundle whose contract is used.
        window: The moments to look at.
        recompute: The offline store, see :func:`offline`.
        advance: Called with the number of vectors that were compared, for progress.

    Raises:
        NotFoundError: There is no log of this model.
        SourceError: The offline tables cannot be read.
        SchemaError: Rows of the log do not fit the contract.
    """
    contract = log.bundle.contract
    found = {feature.name: FeatureSkew(feature.name, feature.view) for feature in contract.features}
    rows = 0
    for served in log.batches(window, _columns(contract)):
        entities, at = entity_rows(contract, served)
        fresh = recompute(entities, at)
        for feature in contract.features:
            _compare(found[feature.name], feature, served, fresh[feature.name].combine_chunks())
        rows += served.num_rows
        advance(served.num_rows)
    ordered = sorted(found.values(), key=lambda one: -one.mismatches)
    return SkewReport(log.bundle.model, log.bundle.version, window, rows, tuple(ordered), tuple(log.problems))


def offline(contract: Contract, repo: Path, code: Path) -> Recompute:
    """The offline store of ``repo`` with knowledge time on; on-demand functions come from the bundle's ``code``."""
    from asof.offline import retrieve

    add_path(str(code))
    return lambda rows, at: retrieve(contract, rows, at=at, repo=repo, knowledge=True)


def entity_rows(contract: Contract, served: pa.Table) -> tuple[pa.Table, str]:
    """The keys, request fields and moments of logged rows as the offline store takes them, and the moment column's name."""
    names = {f"key.{key.name}": key.name for key in contract.keys}
    names |= {f"request.{f.name}": f.name for f in contract.request_fields}
    at = unused("at", {*names.values(), *contract.feature_names})
    columns = {name: served[logged] for logged, name in names.items()}
    return pa.table({**columns, at: served["as_of"]}), at


def _columns(contract: Contract) -> list[str]:
    parts: list[tuple[str, Iterable[str]]] = [
        ("key", (key.name for key in contract.keys)),
        ("request", (f.name for f in contract.request_fields)),
        ("feature", contract.feature_names),
    ]
    return ["request_id", "row", "at", "as_of", *(f"{part}.{name}" for part, names in parts for name in names)]


def _compare(found: FeatureSkew, feature: Feature, served: pa.Table, fresh: pa.Array) -> None:
    logged = served[f"feature.{feature.name}"].combine_chunks()
    same, distance = _differences(logged, fresh, feature.dtype)
    wrong = np.flatnonzero(~same)
    found.recomputed += len(same)
    if not len(wrong):
        return
    found.mismatches += len(wrong)
    apart = distance[wrong]
    found.one_missing += int(np.isnan(apart).sum())
    found.largest = max([found.largest, *apart[np.isfinite(apart)].tolist()])
    for position in wrong[: EXAMPLES - len(found.examples)].tolist():
        found.examples.append(_example(served, position, logged[position].as_py(), fresh[position].as_py()))


def _differences(logged: pa.Array, fresh: pa.Array, dtype: str) -> tuple[Flags, npt.NDArray[np.float64]]:
    """Which values are the same, and the relative difference of numbers (NaN where one side is missing or is not a number)."""
    if dtype.startswith("float"):
        return _floats(logged, fresh, SINGLE if dtype == "float32" else TOLERANCE)
    if dtype.startswith(("int", "bool")):
        return _exact_numbers(logged, fresh)
    pairs = zip(logged.to_pylist(), fresh.to_pylist(), strict=True)
    same = np.fromiter((_equal(one, other) for one, other in pairs), bool, len(logged))
    return same, np.full(len(same), np.nan)


def _floats(logged: pa.Array, fresh: pa.Array, tolerance: float) -> tuple[Flags, npt.NDArray[np.float64]]:
    left, right = (np.asarray(a.cast(pa.float64()).to_numpy(zero_copy_only=False)) for a in (logged, fresh))
    distance = _distance(left, right)
    # Infinities of one sign are equal although their distance is no number.
    same = (left == right) | (distance <= tolerance) | (np.isnan(left) & np.isnan(right))
    return same, distance


def _exact_numbers(logged: pa.Array, fresh: pa.Array) -> tuple[Flags, npt.NDArray[np.float64]]:
    """As integers, because a float64 does not hold every int64."""
    left, right = logged.cast(pa.int64(), safe=False), fresh.cast(pa.int64(), safe=False)
    equal = pc.fill_null(pc.equal(left, right), False)
    same = pc.or_(equal, pc.and_(left.is_null(), right.is_null())).to_numpy(zero_copy_only=False)
    numbers = (np.asarray(a.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)) for a in (left, right))
    return same, _distance(*numbers)


def _distance(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.maximum(np.abs(left), np.abs(right))
        return np.asarray(np.abs(left - right) / np.where(scale == 0, 1.0, scale))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        close = abs(one - other) <= TOLERANCE * max(abs(one), abs(other))
        return one == other or close or (one != one and other != other)
    return bool(one == other)


def _example(served: pa.Table, position: int, logged: Any, fresh: Any) -> Example:
    row = served.slice(position, 1)
    keys = {name.removeprefix("key."): row[name][0].as_py() for name in row.column_names if name.startswith("key.")}
    moment = format_moment(row["at"].cast(pa.int64())[0].as_py())
    return Example(row["request_id"][0].as_py(), row["row"][0].as_py(), moment, keys, logged, fresh)
