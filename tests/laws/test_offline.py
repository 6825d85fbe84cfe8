"""The laws, kept by the offline store; and, for each of them, changes to the code that it notices."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from asof.offline import EngineSettings, retrieve, source_rows, view_values
from asof.windows import kernel, latest, out_of_order, parallel, range_folds, sorting, visibility
from tests.laws import laws
from tests.laws.worlds import Shape, World, random_shape, world, worlds

CASES = int(os.environ.get("ASOF_LAW_CASES", "2000"))
"""Cases (keys with their history and questions) of the long run; ``make laws`` asks for 100,000 and more."""
KEYS = 500
"""Cases of one world in the long run."""


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> laws.Store:
    """The offline store, on a Parquet file written for each world."""
    folder = tmp_path_factory.mktemp("laws")
    engine = EngineSettings(threads=1)

    def answers(asked: World) -> pa.Table:
        pq.write_table(asked.rows, folder / "rows.parquet")
        found = retrieve(asked.contract, asked.asked, at="at", repo=folder, knowledge=asked.knowledge, settings=engine)
        return found.select([f.name for f in asked.view.features])

    return answers


def has_rows(candidate: World) -> bool:
    """An empty source is an error, not a world."""
    return bool(candidate.rows.num_rows)


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__.removeprefix("check_"))
@settings(max_examples=15, deadline=None)
@given(asked=worlds().filter(has_rows))
def test_law(law: Callable[[laws.Store, World], None], asked: World, store: laws.Store) -> None:
    """The offline store keeps every law in every world that hypothesis thinks of."""
    law(store, asked)


@pytest.mark.parametrize(
    ("direct", "piece"), [(0, 500), (range_folds.DIRECT, parallel.RANGE_SIZE)], ids=["blocks_in_pieces", "one_by_one"]
)
def test_many_cases_equal_the_definition(
    direct: int, piece: int, store: laws.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many cases are tried, plain and windowed, with either way of folding ranges: no value differs from the oracle's."""
    monkeypatch.setattr(range_folds, "DIRECT", direct)
    monkeypatch.setattr(parallel, "RANGE_SIZE", piece)
    rng = np.random.default_rng([20, direct])
    for number in range(max(CASES // 2 // KEYS, 1)):
        laws.check_definition(store, world(1_000 * direct + number, random_shape(rng, KEYS)))


# Each mutation: the law that must notice, a world in which it can, and the change to the code.
BUSY = Shape(keys=40, events=12, questions=8, span=20, late=0.5, missing=0.2)
WINDOWS = Shape(keys=40, events=12, questions=8, span=20, late=0.5, missing=0.2, windows=(3, 15))


def _known_too_late(arrival: np.ndarray, t: np.ndarray) -> np.ndarray:
    return arrival.searchsorted(t, "left")


def _without_overtaken(*given: Any, late: bool) -> Any:
    return list(steps(*given, late=late))[:1]


def _overtaken_as_well(key: Any, arrival: Any, skipped: Any, answers: Any = None) -> Any:
    return packed(key, arrival, None, answers)


def _without_late(known: np.ndarray) -> tuple[Any, np.ndarray]:
    return split(known)[0], np.empty(0, dtype=np.int64)


def _codes_by_last_key(stored: Any, asked: Any, rows: Any) -> Any:
    return codes(stored[-1:], asked[-1:], rows)


def _one_code(stored: Any, asked: Any, rows: Any) -> Any:
    left, right = codes(stored, asked, rows)
    return left * 0, np.where(right < 0, right, 0)


def _nulls_as_zero(stored: Any, asked: Any, rows: Any) -> Any:
    left, right = codes(stored, asked, rows)
    return left, np.maximum(right, 0)


def _as_old_is_expired(view: Any, rows: Any, found: np.ndarray) -> np.ndarray:
    return (
        (found >= 0) & (rows.questions.t - rows.events.ts[found] >= view.ttl)
        if view.ttl
        else expired(view, rows, found)
    )


def _never_expired(view: Any, rows: Any, found: np.ndarray) -> np.ndarray:
    return np.zeros(len(found), dtype=bool)


def _null_as_zero(column: pa.ChunkedArray) -> np.ndarray:
    return event_values(pc.fill_null(column, 0.0) if pa.types.is_floating(column.type) else column)


def _counted(kind: Any, seen: Any, questions: int) -> np.ndarray:
    return out_of_order.counts(seen, questions)


def _last_of_all(column: Any, picked: list[int]) -> Any:
    return np.maximum(column.end[picked] - 1, 0)


def _known_at_once(*given: Any, knowledge: bool) -> Any:
    return coded(*given, knowledge=False)


def _sorted_answers(events: Any, questions: Any) -> np.ndarray:
    return np.sort(newest_row(events, questions))


def _no_spread(left: Any, right: Any) -> Any:
    total, mean, _ = merge(left, right)
    return total, mean, left[2] + right[2]


def _any_of_ties(events: Any) -> np.ndarray | None:
    return sorting.stable_order(events.ts)


def _no_order(codes_: np.ndarray, kt: np.ndarray) -> None:
    return None


def _hop_ignored(moments: np.ndarray, hop: int) -> np.ndarray:
    return moments


def _hop_twice(moments: np.ndarray, hop: int) -> np.ndarray:
    return floored(moments, 2 * hop)


def _order_kept(answers: Any, place: np.ndarray, pool: Any) -> Any:
    return answers


def _time_of_first(events: Any, chosen: Any) -> Any:
    return replace(choice(events, chosen), arrival=events.ts[chosen])


def _seen_earlier(since: np.ndarray, questions: int) -> np.ndarray:
    return seen_by(np.maximum(since - 1, 0), questions)


def _a_bit_less(numbers: np.ndarray) -> np.ndarray:
    return np.maximum(bit_length(numbers) - 1, 0)


codes, expired, event_values, coded = (
    source_rows.codes,
    view_values.expired,
    view_values.event_values,
    source_rows.code_rows,
)
newest_row, steps, packed, merge = latest.newest, latest.search_steps, latest.pack_steps, range_folds.merge
floored, split, seen_by = visibility.floor_to_hop, visibility.split_out_of_order, visibility.count_seen
choice, bit_length = parallel.events_at, range_folds.bit_length

MUTATIONS: list[tuple[Any, Shape, Any, str, Any]] = [
    (laws.check_definition, BUSY, latest, "count_known", _known_too_late),
    (laws.check_definition, BUSY, latest, "search_steps", _without_overtaken),
    (laws.check_definition, BUSY, latest, "pack_steps", _overtaken_as_well),
    (laws.check_definition, BUSY, latest, "stable_order", lambda _: None),
    (laws.check_definition, WINDOWS, visibility, "split_out_of_order", _without_late),
    (laws.check_definition, WINDOWS, visibility, "event_order", _no_order),
    (laws.check_definition, Shape(**{**WINDOWS.__dict__, "hop": 5}), visibility, "floor_to_hop", _hop_ignored),
    (laws.check_definition, WINDOWS, visibility, "count_seen", _seen_earlier),
    (laws.check_definition, WINDOWS, parallel, "events_at", _time_of_first),
    (laws.check_definition, WINDOWS, range_folds, "bit_length", _a_bit_less),
    (laws.check_definition, WINDOWS, range_folds, "merge", _no_spread),
    (laws.check_definition, Shape(**{**WINDOWS.__dict__, "missing": 0.0}), kernel, "last_position", _last_of_all),
    (laws.check_definition, Shape(**{**BUSY.__dict__, "two_keys": True}), source_rows, "codes", _codes_by_last_key),
    (laws.check_definition, WINDOWS, kernel, "distinct_seen", _counted),
    (laws.check_future_is_unknown, BUSY, source_rows, "code_rows", _known_at_once),
    (laws.check_each_question_is_alone, WINDOWS, parallel, "into_question_order", _order_kept),
    (laws.check_each_question_is_alone, BUSY, view_values, "newest", _sorted_answers),
    (laws.check_keys_are_apart, BUSY, source_rows, "codes", _one_code),
    (laws.check_ties, BUSY, latest, "time_order", _any_of_ties),
    (laws.check_ttl, BUSY, view_values, "expired", _as_old_is_expired),
    (laws.check_ttl, BUSY, view_values, "expired", _never_expired),
    (laws.check_moment_of_knowledge, BUSY, latest, "count_known", _known_too_late),
    (laws.check_moment_of_knowledge, BUSY, source_rows, "code_rows", _known_at_once),
    (laws.check_not_a_number_is_missing, WINDOWS, view_values, "event_values", _null_as_zero),
    (laws.check_rows_out_are_rows_in, BUSY, source_rows, "codes", _nulls_as_zero),
    (
        laws.check_shifted_time_is_the_same_time,
        Shape(**{**WINDOWS.__dict__, "hop": 5}),
        visibility,
        "floor_to_hop",
        _hop_twice,
    ),
]


@pytest.mark.parametrize(("law", "shape", "module", "name", "change"), MUTATIONS)
def test_law_notices(
    law: Any, shape: Shape, module: Any, name: str, change: Any, store: laws.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A law that no change to the code can break says nothing: each of these is noticed."""
    monkeypatch.setattr(parallel, "RANGE_SIZE", 60)
    monkeypatch.setattr(range_folds, "DIRECT", 0)
    asked = world(5, shape)
    law(store, asked)
    monkeypatch.setattr(module, name, change)
    with pytest.raises(AssertionError):
        law(store, asked)


def test_every_seam_is_registered_and_mutated() -> None:
    """Mutations replace registered seams only, and every registered seam is replaced by one."""
    modules = (latest, visibility, parallel, range_folds, kernel, source_rows, view_values)
    registered = {(module.__name__, name) for module in modules for name in module.SEAMS}
    assert {(module.__name__, name) for _, _, module, name, _ in MUTATIONS} == registered


def test_every_law_has_a_mutation() -> None:
    """No law goes without a change to the code that it must notice."""
    assert {law for law, *_ in MUTATIONS} == set(laws.LAWS)
