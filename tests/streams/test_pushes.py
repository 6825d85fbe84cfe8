"""Pushes into tables that stamp arrival: what a vector had seen can be said afterwards, as it can of streams."""

from __future__ import annotations

import random
import threading
import time
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asof.errors import OnlineStoreError, TableError
from asof.online import MemoryStore, Reader, Writer
from asof.online.watermarks import PUSH, SLACK, Watermark
from asof.repo import Repo
from asof.tables import Pusher, push
from tests.streams import world

PUSHING = import_module("asof.tables.push")


class Failing(Writer):
    """A writer whose second view cannot be written while ``broken``."""

    broken = True

    def write(self, view: Any, table: pa.Table, *, now: int | None = None) -> int:
        """As every writer, or not at all."""
        if self.broken and view.name == world.VIEWS["orders"][1].name:
            raise OnlineStoreError("Redis is down")
        return super().write(view, table, now=now)


@pytest.fixture(params=["redis", "memory"])
def writer(request: pytest.FixtureRequest, repo: Repo) -> Any:
    """A writer to each store."""
    made = Failing(world.PROJECT, repo.settings.online if request.param == "redis" else MemoryStore())
    made.broken = False
    yield made
    made.close()


def held_back(watermark: Watermark) -> bool:
    return watermark.value() is not None


def later() -> int:
    """A moment at which everything that was stamped until now is known."""
    return time.time_ns() // 1_000 + 2 * SLACK


def counts(writer: Writer, at: int) -> Any:
    """Events of the last day by buyer and by shop, and the moment that they are as of."""
    reader = Reader(world.contract("orders"), writer.store)
    found = reader.read({"buyer": list(range(world.BUYERS)), "shop": [0] * world.BUYERS}, np.full(world.BUYERS, at))
    return int(np.nansum(found.column("orders_of_buyer", "count_1d"))), int(found.as_of[0])


def stamps(repo: Repo) -> set[int]:
    return set(world.held(repo, "orders")["known_at"].cast(pa.int64()).to_pylist())


def test_what_reads_saw_while_pushes_came_is_what_the_table_says(repo: Repo) -> None:
    """Every vector that was read while batches were pushed is what the table gives for the moment that it names."""
    watcher = world.Watcher(repo, ("orders",), random.Random(1))
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            watcher.look()

    thread = threading.Thread(target=watch)
    thread.start()
    rng = random.Random(2)
    try:
        for number in range(12):
            push(repo, "orders", world.events(range(number * 40, number * 40 + 40), rng))
        with Pusher(repo, ["orders_push"]) as pusher:
            for number in range(30):
                pusher.push("orders_push", world.events(range(1000 + 3 * number, 1003 + 3 * number), rng))
    finally:
        stop.set()
        thread.join()
    time.sleep(2 * SLACK / 1e6)
    watcher.look()
    assert len(watcher.seen) > 40
    assert max(watcher.back) > 0, "no read fell into a push"
    assert watcher.mismatches() == []
    assert world.everything(repo, "orders") == []


def test_rows_are_known_from_one_stamp_on(repo: Repo, writer: Failing) -> None:
    """Rows of a push share one stamp; the views know them from that very microsecond, and reads are held back no longer."""
    report = push(repo, "orders", world.events(range(20), random.Random(1)), writer=writer)
    (stamp,) = stamps(repo)
    assert report.online["orders_of_buyer"] == 20
    assert not held_back(writer.watermark("orders"))
    assert counts(writer, stamp) == (20, stamp)
    assert counts(writer, stamp - 1) == (0, stamp - 1)


def test_rows_that_bring_their_knowledge_time_keep_it(repo: Repo, writer: Failing) -> None:
    """A history that is pushed keeps the moments at which it was known; only rows without one are stamped."""
    rows = world.events(range(5), random.Random(1))
    moments = pa.array(np.arange(5) + time.time_ns() // 1_000 - 10_000_000).cast(world.MOMENT)
    push(repo, "orders", rows.append_column("known_at", moments), writer=writer)
    assert stamps(repo) == set(moments.cast(pa.int64()).to_pylist())


def test_a_push_that_failed_holds_reads_back_until_it_is_made_again(repo: Repo, writer: Failing) -> None:
    """After half a push reads are as of the moment before it; pushed again, it counts once, from its first stamp on."""
    rows = world.events(range(20), random.Random(1))
    writer.broken = True
    with pytest.raises(OnlineStoreError, match="push them again"):
        push(repo, "orders", rows, writer=writer)
    (stamp,) = stamps(repo)
    assert counts(writer, later()) == (0, stamp - 1)
    writer.broken = False
    push(repo, "orders", rows, writer=writer)
    assert stamps(repo) == {stamp}
    moment = later()
    assert counts(writer, moment) == (20, moment)


def test_a_push_that_wrote_nothing_holds_nobody_back(
    repo: Repo, writer: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the table cannot be written nothing was pushed, and reads go on."""

    def fail(*_args: Any, **_options: Any) -> None:
        raise TableError("the disk is full")

    monkeypatch.setattr("asof.tables.event_writer.commit", fail)
    with pytest.raises(TableError, match="full"):
        push(repo, "orders", world.events(range(3), random.Random(1)), writer=writer)
    assert not held_back(writer.watermark("orders"))


def test_abandoned_pushes_are_let_go(repo: Repo, writer: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push whose process died long ago holds reads back until the next one; what a stream has under way stays."""
    watermark = writer.watermark("orders")
    watermark.begin([f"{PUSH}dead", "1-1"])
    push(repo, "orders", world.events(range(3), random.Random(1)), writer=writer)
    assert set(watermark.under_way()) == {f"{PUSH}dead", "1-1"}
    monkeypatch.setattr(PUSHING, "ABANDONED", -1_000_000)
    push(repo, "orders", world.events(range(3, 5), random.Random(1)), writer=writer)
    assert set(watermark.under_way()) == {"1-1"}
    watermark.finish(["1-1"])


def test_watermarks_of_ordered_streams_are_alike_in_every_store(repo: Repo, writer: Failing) -> None:
    """A watermark is lifted and never falls, and reads are as of it until it is removed."""
    watermark = writer.watermark("orders")
    assert [watermark.lift(m) for m in (50, 40, 60)] == [50, 50, 60]
    assert counts(writer, 100)[1] == 60
    watermark.remove()
    assert watermark.value() is None
    assert counts(writer, 100)[1] == 100
