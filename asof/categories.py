"""Encodes categories as numbers, with one function for training and serving.

The vocabulary of a categorical feature lists the values that the training rows had. It is frozen in the bundle: the code of a value is its
place in the vocabulary, and a value that is not in it is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CATEGORY_TYPES = frozenset({"string", "int32", "int64", "bool"})
"""Types of features that can be categories."""

MOST = 10_000
"""Most values in a vocabulary; rarer ones are missing."""

Vocabulary = Mapping[Any, int]
"""Value -> code."""


def vocabulary(values: Iterable[Any], dtype: str) -> list[Any]:
    """The different values that are present, the most frequent first, as JSON keeps them.

    Args:
        values: Values of a feature; None and NaN are missing.
        dtype: Its type, one of :data:`CATEGORY_TYPES`.
    """
    plain = str if dtype == "string" else int
    counted = Counter(value for value in values if value is not None and value == value)
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [plain(value) for value, _ in ordered[:MOST]]


def coded(values: Sequence[Any]) -> Vocabulary:
    """The code of each value of a vocabulary: its place."""
    return {value: code for code, value in enumerate(values)}


def codes(values: Sequence[Any] | NDArray[np.float64], known: Vocabulary) -> NDArray[np.float64]:
    """``float64[n]``: the code of each value, NaN for missing and unknown ones. Whole numbers and booleans may come as floats."""
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return np.fromiter((known.get(value, np.nan) for value in listed), np.float64, len(listed))
