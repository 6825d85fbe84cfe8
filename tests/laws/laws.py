"""The laws of feature values, for any store. A store is a function from a world to the features of its questions, in order.

Each ``check_*`` raises ``AssertionError`` where the law is broken. Their order is that of ``semantics``: what is known, what is
newest, what is fresh, what is in a window, what a table looks like.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from asof.contract import Field
from tests.laws.oracle import expected
from tests.laws.worlds import BASE, World

Store = Callable[[World], pa.Table]


def check_definition(store: Store, world: World) -> None:
    """Every value is what the definition says."""
    assert_same(store(world), expected(world), world)


def check_future_is_unknown(store: Store, world: World) -> None:
    """Rows that are not known at a moment change no answer for that moment or an earlier one."""
    moments = pc.sort_indices(world.asked["at"])
    at = world.asked["at"][moments[len(moments) // 2].as_py()]
    world = world.having(asked=world.asked.filter(pc.less_equal(world.asked["at"], at)))
    visible = pc.less_equal(world.rows["ts"], at)
    if world.knowledge and "kt" in world.rows.column_names:
        visible = pc.and_(visible, pc.less_equal(world.rows["kt"], at))
    past = world.rows.filter(visible)
    if past.num_rows:
        assert_same(store(world), store(world.having(rows=past)), world)


def check_each_question_is_alone(store: Store, world: World) -> None:
    """What else is asked, in which order and how often, changes no answer."""
    backwards = pa.array(np.arange(world.asked.num_rows)[::-1].repeat(2))
    twice = store(world.having(asked=world.asked.take(backwards)))
    assert_same(twice, store(world).take(backwards), world)


def check_keys_are_apart(store: Store, world: World) -> None:
    """The rows of one key change no answer for another."""
    together = store(world)
    for key in pc.unique(world.rows["k"]).to_pylist()[:3]:
        mine = pc.fill_null(pc.equal(world.asked["k"], key), fill_value=False)
        rows = world.rows.filter(pc.equal(world.rows["k"], key))
        if pc.any(mine).as_py():
            assert_same(store(world.having(rows=rows, asked=world.asked.filter(mine))), together.filter(mine), world)


def check_ties(store: Store, world: World) -> None:
    """Of rows with the same event time the one with the greatest knowledge time counts, then the last one."""
    times = [("first", 0, 5), ("greatest", 0, 7), ("last of equals", 0, 7), ("earlier", 0, 6), ("older", -1, 9)]
    rows = pa.table(
        {
            **_one_key(world, len(times)),
            "ts": _at([t for _, t, _ in times]),
            "kt": _at([k for _, _, k in times]),
            "x": pa.array(range(5), pa.float64()),
            "n": pa.array(range(5), pa.int64()),
            "s": pa.array([name for name, _, _ in times]),
        }
    )
    answers = store(_plain(world, rows, [10], ttl=0))
    assert answers["s"].to_pylist() == ["last of equals"]


def check_ttl(store: Store, world: World) -> None:
    """A row exactly as old as the ttl is fresh; a microsecond later its value is missing; without a ttl it never is."""
    rows = _row(world, 0, 0)
    assert store(_plain(world, rows, [5, 6, -1], ttl=5))["n"].to_pylist() == [1, None, None]
    assert store(_plain(world, rows, [5, 10**12], ttl=0))["n"].to_pylist() == [1, 1]


def check_moment_of_knowledge(store: Store, world: World) -> None:
    """A row is known from the later of its event time and its knowledge time on, at that very microsecond."""
    assert store(_plain(world, _row(world, 3, 7), [6, 7], ttl=0))["n"].to_pylist() == [None, 1]
    assert store(_plain(world, _row(world, 7, 3), [6, 7], ttl=0))["n"].to_pylist() == [None, 1]
    unaware = _plain(world, _row(world, 3, 7), [2, 3], ttl=0).having(knowledge=False)
    assert store(unaware)["n"].to_pylist() == [None, 1]


def check_not_a_number_is_missing(store: Store, world: World) -> None:
    """NaN and null give the same answers, in plain and in windowed views."""
    x = world.rows["x"].combine_chunks()
    place = world.rows.column_names.index("x")
    null = pc.if_else(pc.is_nan(x), pa.scalar(None, pa.float64()), x)
    nan = pc.fill_null(x, math.nan)
    answers = [store(world.having(rows=world.rows.set_column(place, "x", column))) for column in (null, nan)]
    assert_same(answers[0], answers[1], world)


def check_rows_out_are_rows_in(store: Store, world: World) -> None:
    """There is one answer per question, for null and unknown keys too; nothing is known of them."""
    nobody = world.asked.set_column(0, "k", pa.nulls(world.asked.num_rows, world.asked["k"].type))
    answers = store(world.having(asked=nobody))
    assert answers.num_rows == world.asked.num_rows
    empty = {"count", "sum", "count_distinct"}
    zero = {a.name for a in world.view.aggregations if a.function in empty}
    for name in answers.column_names:
        assert set(_values(answers[name])) <= ({0} if name in zero else {None}), name


def check_shifted_time_is_the_same_time(store: Store, world: World) -> None:
    """Moving every moment by the same multiple of the hop changes no answer."""
    shift = world.view.hop * 977
    assert_same(
        store(world), store(world.having(rows=_shifted(world.rows, shift), asked=_shifted(world.asked, shift))), world
    )


LAWS: tuple[Callable[[Store, World], None], ...] = (
    check_definition,
    check_future_is_unknown,
    check_each_question_is_alone,
    check_keys_are_apart,
    check_ties,
    check_ttl,
    check_moment_of_knowledge,
    check_not_a_number_is_missing,
    check_rows_out_are_rows_in,
    check_shifted_time_is_the_same_time,
)


def assert_same(got: pa.Table, wanted: pa.Table, world: World) -> None:
    """Equal values: integers and text exactly, floats to 1e-9 of the magnitudes in the world."""
    assert got.num_rows == wanted.num_rows, f"{got.num_rows} answers, expected {wanted.num_rows}"
    for name in wanted.column_names:
        for row, (g, w) in enumerate(zip(_values(got[name]), _values(wanted[name]), strict=True)):
            assert _same(g, w), f"{name}, question {row}: got {g!r}, expected {w!r} in {world.view}"


def _same(got: Any, wanted: Any) -> bool:
    if got is None or wanted is None or isinstance(wanted, str):
        return bool(got == wanted)
    return math.isclose(got, wanted, rel_tol=1e-9, abs_tol=1e-6 if abs(wanted) < 1e-3 else 0.0)


def _values(column: pa.ChunkedArray) -> list[Any]:
    values = column.to_pylist()
    return [None if isinstance(v, float) and math.isnan(v) else v for v in values]


def _one_key(world: World, rows: int) -> dict[str, pa.Array]:
    keys = {"k": pa.array([1] * rows, pa.int64())}
    return keys | ({"k2": pa.array(["one"] * rows)} if len(world.view.join_keys) > 1 else {})


def _at(micros: list[int]) -> pa.Array:
    return pa.array(np.array(micros, dtype=np.int64) + BASE).cast(pa.timestamp("us", "UTC"))


def _row(world: World, ts: int, kt: int) -> pa.Table:
    return pa.table({**_one_key(world, 1), "ts": _at([ts]), "kt": _at([kt]), "x": [1.0], "n": [1], "s": ["one"]})


def _plain(world: World, rows: pa.Table, at: list[int], ttl: int) -> World:
    """A world of one key of a plain view with knowledge time, asked at some moments."""
    fields = (Field("x", "float64"), Field("n", "int64"), Field("s", "string"))
    source = replace(world.view.source, created_timestamp_column="kt")
    view = replace(world.view, features=fields, ttl=ttl, source=source, aggregations=(), hop=1)
    return World(view, rows, pa.table({**_one_key(world, len(at)), "at": _at(at)}), knowledge=True)


def _shifted(table: pa.Table, micros: int) -> pa.Table:
    for name in ("ts", "kt", "at"):
        if name in table.column_names:
            moved = pc.add(table[name].cast(pa.int64()), micros).cast(pa.timestamp("us", "UTC"))
            table = table.set_column(table.column_names.index(name), name, moved)
    return table
