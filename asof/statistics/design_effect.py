"""Design effects: the effective number of independent rows when rows of one key resemble each other.

A test that takes 14 rows of one key for 14 independent observations finds drift everywhere: with features that are constant
per key, two samples of the same process nearly always differ "significantly". The design effect of a column is the factor by which
clusters inflate the variance of its cell shares; n rows have an effective size of n / design effect.

The inflation differs from direction to direction: with p the k cell shares, D = diag(p) and V the covariance of the shares between
clusters, it has the k - 1 eigenvalues of n D^-1 V. Their mean is the design effect and their squared coefficient of variation the spread;
a chi-square statistic over (design effect * (1 + spread)) has about (k - 1) / (1 + spread) degrees of freedom. This is the second-order
correction of J. N. K. Rao and A. J. Scott, "The analysis of categorical data from complex sample surveys", Journal of the American
Statistical Association 76 (1981) 221-230. A column is measured under every key, and the largest effect counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from asof.statistics import histograms

SAMPLE = 300_000
"""Rows that a :class:`Sample` holds at most, for each key."""

LEAST_CLUSTERS = 50
"""Least number of keys from which design effects are measured: a handful of keys is a fixed panel, not a sample."""

Codes = Mapping[str, npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class DesignEffect:
    """The design effect of clusters on the shares of a column's cells.

    Attributes:
        effect: Mean inflation of the variance, 1 or more.
        spread: Squared coefficient of variation of the inflation over directions, 0 or more.
    """

    effect: float = 1.0
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class ColumnEffects:
    """The design effects of one column: of its present values, and of the share that is missing."""

    values: DesignEffect = DesignEffect()
    missing: DesignEffect = DesignEffect()

    def to_list(self) -> list[list[float]]:
        """As JSON data: ``[[effect, spread] of the values, [effect, spread] of missing]``."""
        return [[self.values.effect, self.values.spread], [self.missing.effect, self.missing.spread]]

    @classmethod
    def from_list(cls, listed: Sequence[Sequence[float]]) -> Self:
        """The effects that :meth:`to_list` wrote."""
        return cls(*(DesignEffect(*pair) for pair in listed))


def design_effect(clusters: npt.NDArray[np.int64], cells: npt.NDArray[np.int64]) -> DesignEffect:
    """The design effect of n rows in cells.

    If all rows are in one cell, the effect cannot be measured, and the rows count as one row per cluster, the least effective size
    that they can have.

    Args:
        clusters: int64[n], dense codes of the cluster of each row.
        cells: int64[n], code of the cell of each row.
    """
    rows = len(cells)
    seen, coded = np.unique(cells, return_inverse=True)
    groups = int(clusters.max()) + 1 if rows else 0
    if len(seen) < 2 or groups < 2:
        return DesignEffect(float((np.bincount(clusters).astype(np.float64) ** 2).sum() / rows) if rows else 1.0)
    share = np.bincount(coded) / rows
    scaled = _covariance(clusters, coded, share, groups) / np.sqrt(np.outer(share, share)) / rows
    mean = float(np.trace(scaled)) / (len(seen) - 1)
    squares = float((scaled**2).sum()) / (len(seen) - 1)
    return DesignEffect(max(1.0, mean), max(0.0, squares / mean**2 - 1)) if mean > 0 else DesignEffect()


def _covariance(
    clusters: npt.NDArray[np.int64], coded: npt.NDArray[np.int64], share: npt.NDArray[np.float64], groups: int
) -> npt.NDArray[np.float64]:
    """float64[k, k]: the sum over clusters of (counts - size * share) (counts - size * share)', over its degrees of freedom."""
    from scipy.sparse import csr_array

    counts = csr_array((np.ones(len(coded)), (clusters, coded)), shape=(groups, len(share)))
    size = np.bincount(clusters, minlength=groups).astype(np.float64)
    crossed = np.outer(counts.T @ size, share)
    together = (counts.T @ counts).toarray() - crossed - crossed.T + np.outer(share, share) * (size**2).sum()
    return np.asarray(together * groups / (groups - 1))


def column_effects(
    frozen: histograms.Histogram, codes: Codes, keys: Mapping[str, npt.NDArray[np.int64]]
) -> dict[str, ColumnEffects]:
    """Design effects of every column of ``frozen`` under the worst of ``keys``.

    Args:
        frozen: Cells, as :func:`asof.statistics.histograms.build` made them.
        codes: Column -> int32[n] cells, as :func:`asof.statistics.histograms.codes` gives them.
        keys: Key -> int64[n] of dense codes; keys with fewer than :data:`LEAST_CLUSTERS` values are left out.
    """
    many = {name: key for name, key in keys.items() if len(key) and key.max() >= LEAST_CLUSTERS - 1}
    return {
        name: _effects_of(codes[name], len(histograms.cells(column)) - 1, many)
        for name, column in frozen["columns"].items()
    }


def _effects_of(codes: npt.NDArray[np.int32], missing: int, keys: Mapping[str, npt.NDArray[np.int64]]) -> ColumnEffects:
    cells = codes.astype(np.int64)
    present = cells != missing
    return ColumnEffects(
        values=_largest(design_effect(dense(key[present]), cells[present]) for key in keys.values()),
        missing=_largest(design_effect(key, present.astype(np.int64)) for key in keys.values()),
    )


def _largest(designs: Iterable[DesignEffect]) -> DesignEffect:
    return max(designs, key=lambda one: one.effect, default=DesignEffect())


@dataclass(slots=True)
class Sample:
    """A sample of whole clusters from a stream of any length, in bounded memory.

    Whether a key is in the sample depends on its hash alone, so all of a key's rows are in or out. When the sample outgrows its
    ``limit``, the share of keys is halved.
    """

    limit: int = SAMPLE
    _share: int = 1
    _keys: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    _codes: list[dict[str, npt.NDArray[np.int32]]] = field(default_factory=list)

    def add(self, key: histograms.Values, codes: Codes) -> None:
        """Add the rows of the sampled keys from a batch of n rows."""
        hashed = hashes(key)
        kept = hashed % np.uint64(self._share) == 0
        self._keys.append(hashed[kept])
        self._codes.append({name: column[kept] for name, column in codes.items()})
        while sum(map(len, self._keys)) > self.limit and self._share < 1 << 20:
            self._share *= 2
            self._thin()

    def rows(self) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.int32]]]:
        """Dense key codes int64[m] and column -> int32[m] cells of the sampled rows."""
        if not self._keys:
            return np.empty(0, np.int64), {}
        names = self._codes[0]
        return dense(np.concatenate(self._keys)), {n: np.concatenate([part[n] for part in self._codes]) for n in names}

    def clusters(self, sampled: int) -> int:
        """Estimated number of keys of the stream, given that ``sampled`` are in the sample."""
        return sampled * self._share

    def _thin(self) -> None:
        for position, hashed in enumerate(self._keys):
            kept = hashed % np.uint64(self._share) == 0
            self._keys[position] = hashed[kept]
            self._codes[position] = {name: column[kept] for name, column in self._codes[position].items()}


def hashes(key: histograms.Values) -> npt.NDArray[np.uint64]:
    """uint64[n] hashes: equal for equal keys, evenly spread, and the same in every process."""
    encoded = histograms.arrow("key", key)
    encoded = encoded if pa.types.is_dictionary(encoded.type) else pc.dictionary_encode(encoded, null_encoding="encode")
    values = encoded.dictionary
    distinct = _mixed(values) if pa.types.is_integer(values.type) else _digested(values.to_pylist())
    positions: npt.NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return distinct[positions]


def _mixed(values: pa.Array) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014), which spreads consecutive numbers evenly."""
    whole: npt.NDArray[np.int64] = values.fill_null(-1).cast(pa.int64()).to_numpy()
    bits = whole.astype(np.int64).view(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def _digested(values: Sequence[Any]) -> npt.NDArray[np.uint64]:
    return np.array([zlib.crc32(repr(value).encode()) for value in values], np.uint64)


def dense(codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """``codes`` renumbered from 0 without gaps."""
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
