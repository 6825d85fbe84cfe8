"""How much a row is worth when rows of one key resemble each other.

A test that takes the 14 payments of one customer for 14 independent looks at the world finds drift everywhere: with features
that stay with the key, two samples of the same process differ "significantly" nearly always. The design effect of a column is the
factor by which clusters inflate the variance of its cell shares; n rows are worth n / design effect independent ones. For k cells with
shares p it is the mean of the generalised design effects of J. N. K. Rao and A. J. Scott, "The analysis of categorical data from
complex sample surveys", Journal of the American Statistical Association 76 (1981) 221-230, here in its first-order form::

    d = G / (G - 1) / (k - 1) * sum over cells c of sum over clusters g of (n_gc - n_g p_c)^2 / (n p_c)

which is 1 when every cluster is one row. A column is measured under every key, and the largest effect counts.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from asof import histograms

SAMPLE = 300_000
"""Rows that a :class:`Sample` holds at most, for each key."""

Codes = Mapping[str, npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Worth:
    """Design effects of one column: of its values where present, and of its being present at all; 1 or more each."""

    values: float = 1.0
    missing: float = 1.0


def design_effect(clusters: npt.NDArray[np.int64], cells: npt.NDArray[np.int64]) -> float:
    """The first-order design effect, 1 or more; 1 where there is nothing to compare.

    Args:
        clusters: int64[n], dense codes of the cluster of each row.
        cells: int64[n], code of the cell of each row.
    """
    rows = len(cells)
    seen, dense = np.unique(cells, return_inverse=True)
    groups = int(clusters.max()) + 1 if rows else 0
    if len(seen) < 2 or groups < 2:
        return 1.0
    share = np.bincount(dense) / rows
    size = np.bincount(clusters, minlength=groups).astype(np.float64)
    pairs, together = np.unique(clusters * len(seen) + dense, return_counts=True)
    squares = np.bincount(pairs % len(seen), weights=together.astype(np.float64) ** 2, minlength=len(seen))
    crossed = np.bincount(dense, weights=size[clusters])
    spread = squares - 2 * share * crossed + share**2 * (size**2).sum()
    return float(max(1.0, (spread / (rows * share)).sum() * groups / (groups - 1) / (len(seen) - 1)))


def worth(frozen: histograms.Histogram, codes: Codes, keys: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, Worth]:
    """Design effects of every column of ``frozen`` under the worst of ``keys``.

    Args:
        frozen: Cells, as :func:`asof.histograms.build` made them.
        codes: Column -> int32[n] cells, as :func:`asof.histograms.codes` gives them.
        keys: Key -> int64[n] of dense codes.
    """
    return {name: _worth(codes[name], len(histograms.cells(column)) - 1, keys) for name, column in frozen["columns"].items()}


def _worth(codes: npt.NDArray[np.int32], missing: int, keys: Mapping[str, npt.NDArray[np.int64]]) -> Worth:
    cells = codes.astype(np.int64)
    present = cells != missing
    return Worth(
        values=max([1.0, *(design_effect(dense(key[present]), cells[present]) for key in keys.values())]),
        missing=max([1.0, *(design_effect(key, present.astype(np.int64)) for key in keys.values())]),
    )


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
        """Take the rows of the sampled keys from a batch of n rows."""
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

    def _thin(self) -> None:
        for position, hashed in enumerate(self._keys):
            kept = hashed % np.uint64(self._share) == 0
            self._keys[position] = hashed[kept]
            self._codes[position] = {name: column[kept] for name, column in self._codes[position].items()}


def hashes(key: histograms.Values) -> npt.NDArray[np.uint64]:
    """uint64[n] that are equal for equal keys, evenly spread, and the same in every process."""
    encoded = histograms.arrow("key", key)
    encoded = encoded if pa.types.is_dictionary(encoded.type) else pc.dictionary_encode(encoded, null_encoding="encode")
    values = encoded.dictionary
    distinct = _mixed(values) if pa.types.is_integer(values.type) else _digested(values.to_pylist())
    return distinct[encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)]


def _mixed(values: pa.Array) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014), which spreads consecutive numbers evenly."""
    bits = values.fill_null(-1).cast(pa.int64()).to_numpy().astype(np.int64).view(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def _digested(values: Sequence[Any]) -> npt.NDArray[np.uint64]:
    return np.array([zlib.crc32(repr(value).encode()) for value in values], np.uint64)


def dense(codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """``codes`` renumbered from 0 without gaps."""
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
