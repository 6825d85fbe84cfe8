"""What a model predicts: the kind of its labels, the numbers that it gives for a row, and what is answered from these.

Training declares a task, the bundle's ``metadata.json`` keeps it, and serving and monitoring read it from there. A model gives K
numbers for a row, its *outputs*:

- :class:`Binary`: the probability that the label is 1. A decision is made from it.
- :class:`Multiclass`: the probability of each class.
- :class:`Regression`: the expected label (its median for the absolute loss).
- :class:`Quantiles`: the label's quantiles, from which an interval is made.
- :class:`Ranking`: a score that puts the rows of a group in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from asof.errors import BundleError, SettingsError

Floats = npt.NDArray[np.float64]
Loss = Literal["squared", "absolute", "poisson", "tweedie"]
COUNTS = frozenset({"poisson", "tweedie"})
"""Losses of labels that are never negative."""


@dataclass(frozen=True)
class Binary:
    """The label is 0 or 1."""

    kind: ClassVar[str] = "binary"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the K numbers that a model gives for a row."""
        return ("score",)

    def score(self, outputs: Floats) -> Floats:
        """The one number float64[n] that stands for a row's outputs float64[n, K], in logs and comparisons."""
        return outputs[:, 0]


@dataclass(frozen=True)
class Multiclass:
    """The label is one of several classes.

    Attributes:
        classes: The classes as texts; by default those of the labelled rows, sorted. A bundle keeps them.
    """

    classes: tuple[str, ...] = ()

    kind: ClassVar[str] = "multiclass"

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        if len(set(self.classes)) < len(self.classes):
            raise SettingsError(f"got the classes {', '.join(self.classes)}, expected each once")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the K numbers that a model gives for a row: the classes."""
        return self.classes

    def score(self, outputs: Floats) -> Floats:
        """The probability of the most probable class: float64[n]."""
        return np.asarray(outputs.max(axis=1, initial=0.0))

    def chosen(self, outputs: Floats) -> list[str]:
        """The most probable class of each row; the first of equally probable ones."""
        return [self.classes[i] for i in outputs.argmax(axis=1).tolist()]


@dataclass(frozen=True)
class Regression:
    """The label is a number.

    Attributes:
        loss: ``squared`` predicts the mean, ``absolute`` the median, ``poisson`` the mean of counts, ``tweedie`` the mean of amounts
            that are often zero.
        power: Variance power of the Tweedie distribution, between 1 (Poisson) and 2 (gamma).
    """

    loss: Loss = "squared"
    power: float = 1.5

    kind: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise SettingsError(f"got the loss {self.loss!r}, expected one of {', '.join(get_args(Loss))}")
        if not 1 < self.power < 2:
            raise SettingsError(f"got the power {self.power!r}, expected a number between 1 and 2")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the K numbers that a model gives for a row."""
        return ("value",)

    def score(self, outputs: Floats) -> Floats:
        """The predicted value: float64[n]."""
        return outputs[:, 0]


@dataclass(frozen=True)
class Quantiles:
    """The label is a number, and its quantiles are predicted.

    Attributes:
        levels: The levels, rising, such as ``(0.1, 0.5, 0.9)``; the first and the last are the ends of the interval.
    """

    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    kind: ClassVar[str] = "quantiles"

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(map(float, self.levels)))
        rising = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if len(self.levels) < 2 or not rising or not all(0 < level < 1 for level in self.levels):
            raise SettingsError(f"got the levels {self.levels}, expected two or more rising numbers between 0 and 1")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the K numbers that a model gives for a row: the levels."""
        return tuple(f"{level:g}" for level in self.levels)

    def score(self, outputs: Floats) -> Floats:
        """The quantile whose level is nearest to one half: float64[n]."""
        return outputs[:, int(np.argmin(np.abs(np.asarray(self.levels) - 0.5)))]


@dataclass(frozen=True)
class Ranking:
    """The rows of a group are put in order; the label says how relevant a row is, a whole number from 0.

    Attributes:
        group: Entity key or request field whose value the rows of a group share, such as the id of a search.
        k: How many rows of a group count in the metrics, from the first.
    """

    group: str
    k: int = 10

    kind: ClassVar[str] = "ranking"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SettingsError(f"got k={self.k}, expected the number of rows that count, at least 1")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the K numbers that a model gives for a row."""
        return ("score",)

    def score(self, outputs: Floats) -> Floats:
        """The score: float64[n]."""
        return outputs[:, 0]


def combined(task: Task, given: Sequence[Floats]) -> Floats:
    """The outputs float64[n, K] of rows, from what each of the model's boosters gives for them: float64[n] or float64[n, K].

    Quantiles are fitted one by one and may cross; they are sorted, which never makes them worse (V. Chernozhukov et al., "Quantile
    and probability curves without crossing", Econometrica 78 (2010) 1093-1125).
    """
    outputs = np.column_stack(given).astype(np.float64, copy=False)
    return np.sort(outputs, axis=1) if isinstance(task, Quantiles) else outputs


Task = Binary | Multiclass | Regression | Quantiles | Ranking
BINARY = Binary()

_KINDS: dict[str, Any] = {task.kind: task for task in (Binary, Multiclass, Regression, Quantiles, Ranking)}


def to_dict(task: Task) -> dict[str, Any]:
    """The task as JSON-ready data."""
    return {"kind": task.kind, **asdict(task)}


def from_dict(written: Mapping[str, Any]) -> Task:
    """The task that :func:`to_dict` wrote.

    Raises:
        BundleError: There is no such task, in a bundle that a newer version wrote.
    """
    if written.get("kind") not in _KINDS:
        raise BundleError(
            f"got the task {written.get('kind')!r}, expected one of {', '.join(_KINDS)}; was it written by a newer asof?"
        )
    given = {
        name: tuple(value) if isinstance(value, list) else value for name, value in written.items() if name != "kind"
    }
    task: Task = _KINDS[written["kind"]](**given)
    return task
