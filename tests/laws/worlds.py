"""Worlds: a view, the rows behind it and the rows that ask, made at random, with everything in them that goes wrong in life.

A world holds many keys; each key with its history and its questions is one case of a law.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from asof.contract import WINDOW_FUNCTIONS, Aggregation, Contract, Feature, Field, JoinKey, Source, View, WindowFunction

TEXT_FUNCTIONS: tuple[WindowFunction, ...] = ("count", "min", "max", "last", "count_distinct")
VALUES = np.array([-2.0, -0.5, 0.0, 0.1, 0.1, 1.5, 3.0, 1e6])
TEXTS = np.array(["", "a", "b", "é", "zz"], dtype=object)
BASE = 1_500_000_000_000_000
"""Worlds begin in July 2017, in microseconds."""


@dataclass(frozen=True)
class Shape:
    """What a world is made of.

    Attributes:
        keys: Cases.
        events: Greatest number of rows of a key.
        questions: Greatest number of questions to a key.
        span: Ticks that rows are spread over; few ticks make many ties.
        tick: Microseconds of a tick.
        late: Share of rows that become known after their event time.
        delay: Greatest delay in ticks.
        missing: Share of missing values.
        ttl, hop, windows: In ticks; ttl 0 is none, hop 0 the smallest, no windows a plain view.
        created: Whether there is a knowledge time at all.
        knowledge: Whether it hides rows.
        two_keys: Whether there are two join keys, one of them text.
    """

    keys: int = 3
    events: int = 8
    questions: int = 6
    span: int = 12
    tick: int = 1
    late: float = 0.3
    delay: int = 6
    missing: float = 0.2
    ttl: int = 0
    hop: int = 0
    windows: tuple[int, ...] = ()
    created: bool = True
    knowledge: bool = True
    two_keys: bool = False


@dataclass(frozen=True)
class World:
    """A view, its source's rows (``k``, maybe ``k2``, ``ts``, maybe ``kt``, ``x``, ``n``, ``s``) and the rows that ask."""

    view: View
    rows: pa.Table
    asked: pa.Table
    knowledge: bool

    @property
    def contract(self) -> Contract:
        """A service of all of the view's features."""
        features = tuple(Feature(f.name, self.view.alias, f.name, f.dtype) for f in self.view.features)
        return Contract("laws", "all", features, (self.view,))

    def having(self, **changes: Any) -> World:
        """The world with other rows, questions or view."""
        return replace(self, **changes)


def world(seed: int, shape: Shape) -> World:
    """The world of ``shape`` that ``seed`` makes."""
    rng = np.random.default_rng(seed)
    keys = np.repeat(np.arange(shape.keys), rng.integers(0, shape.events + 1, shape.keys))
    keys = keys[rng.permutation(len(keys))]
    n = len(keys)
    ts = rng.integers(0, shape.span, n)
    delays = np.where(rng.random(n) < shape.late, rng.integers(-shape.delay, shape.delay + 1, n), 0)
    columns = {**_keys(keys, shape), "ts": _moments(ts, shape.tick)}
    if shape.created:
        columns["kt"] = _moments(ts + delays, shape.tick)
    columns |= _values(rng, n, shape.missing)
    asked = np.repeat(np.arange(shape.keys), rng.integers(1, shape.questions + 1, shape.keys))
    asked = asked[rng.permutation(len(asked))]
    t = rng.integers(-2, shape.span + shape.delay + max(shape.windows, default=0) // 2 + 3, len(asked))
    questions = pa.table(
        {**_keys(np.where(rng.random(len(asked)) < 0.05, -1, asked), shape), "at": _moments(t, shape.tick)}
    )
    return World(_view(shape), pa.table(columns), questions, shape.knowledge)


def shapes(*, windowed: bool | None = None, knowledge: bool | None = None) -> st.SearchStrategy[Shape]:
    """Shapes of small worlds, for hypothesis."""
    windows = st.lists(st.integers(1, 25), min_size=1, max_size=2, unique=True).map(lambda w: tuple(sorted(w)))
    chosen = {True: windows, False: st.just(()), None: st.one_of(st.just(()), windows)}[windowed]
    return st.builds(
        Shape,
        keys=st.integers(1, 4),
        events=st.integers(0, 10),
        span=st.sampled_from([3, 12, 60]),
        tick=st.sampled_from([1, 1_000_000, 3_600_000_000]),
        late=st.sampled_from([0.0, 0.1, 0.9]),
        missing=st.sampled_from([0.0, 0.3, 1.0]),
        ttl=st.sampled_from([0, 0, 1, 4]),
        hop=st.sampled_from([0, 0, 1, 5]),
        windows=chosen,
        created=st.just(True) if knowledge else st.booleans(),
        knowledge=st.booleans() if knowledge is None else st.just(knowledge),
        two_keys=st.booleans(),
    )


def worlds(*, windowed: bool | None = None, knowledge: bool | None = None) -> st.SearchStrategy[World]:
    """Small worlds, for hypothesis."""
    return st.builds(world, st.integers(0, 2**32), shapes(windowed=windowed, knowledge=knowledge))


def random_shape(rng: np.random.Generator, keys: int) -> Shape:
    """The shape of a large world, for the long run."""
    windows = () if rng.random() < 0.4 else tuple(sorted({int(w) for w in rng.integers(1, 40, rng.integers(1, 4))}))
    return Shape(
        keys=keys,
        events=int(rng.choice([3, 8, 20])),
        questions=int(rng.choice([2, 5])),
        span=int(rng.choice([3, 12, 60])),
        tick=int(rng.choice([1, 1_000_000, 3_600_000_000])),
        late=float(rng.choice([0.0, 0.1, 0.9])),
        delay=int(rng.choice([2, 15])),
        missing=float(rng.choice([0.0, 0.2, 0.9])),
        ttl=int(rng.choice([0, 0, 1, 7])),
        hop=int(rng.choice([0, 0, 1, 5])),
        windows=windows,
        created=bool(rng.random() < 0.8),
        knowledge=bool(rng.random() < 0.8),
        two_keys=bool(rng.random() < 0.3),
    )


def _keys(codes: np.ndarray, shape: Shape) -> dict[str, pa.Array]:
    unknown = codes < 0
    if not shape.two_keys:
        return {"k": pa.array(codes * 7 - 3, mask=unknown)}
    names = pa.array([f"key {c // 2}" for c in codes], pa.string())
    return {"k": pa.array(codes % 2, mask=unknown), "k2": names}


def _moments(ticks: np.ndarray, tick: int) -> pa.Array:
    return pa.array(ticks * tick + BASE).cast(pa.timestamp("us", "UTC"))


def _values(rng: np.random.Generator, n: int, missing: float) -> dict[str, pa.Array]:
    absent = rng.random((3, n)) < missing
    x = rng.choice(VALUES, n)
    x = np.where(absent[0] & (rng.random(n) < 0.5), np.nan, x)
    return {
        "x": pa.array(x, mask=absent[0] & ~np.isnan(x)),
        "n": pa.array(rng.integers(-3, 4, n), mask=absent[1]),
        "s": pa.array(rng.choice(TEXTS, n), pa.string(), mask=absent[2]),
    }


def _view(shape: Shape) -> View:
    keys = [JoinKey("k", "k", "int64"), *([JoinKey("k2", "k2", "string")] if shape.two_keys else [])]
    source = Source("rows", "rows.parquet", "parquet", "ts", "kt" if shape.created else None)
    fields: tuple[Field, ...] = (Field("x", "float64"), Field("n", "int64"), Field("s", "string"))
    windows: list[Aggregation] = []
    for w in shape.windows:
        windows += [Aggregation(f"{f} x {w}", "x", f, w * shape.tick) for f in WINDOW_FUNCTIONS]
        windows += [Aggregation(f"{f} s {w}", "s", f, w * shape.tick) for f in TEXT_FUNCTIONS]
    if windows:
        fields = tuple(
            Field(a.name, "string" if a.column == "s" and "count" not in a.function else "float64") for a in windows
        )
    hop = max(shape.hop * shape.tick, 1)
    return View(
        "view", "view", tuple(keys), fields, shape.ttl * shape.tick, source, tuple(windows), hop if windows else 1
    )
