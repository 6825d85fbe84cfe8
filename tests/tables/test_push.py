"""Events that count at once, in the table and online."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from asof.contract import Contract, Feature
from asof.errors import NotFoundError, OnlineStoreError, SchemaError, UsageError
from asof.instants import DAY, to_micros
from asof.online import MemoryStore, Reader, Writer
from asof.tables import Pusher, ingest, push, states
from tests.tables.repos import NOW, SPENDING, held, set_aside
from tests.tables.test_ingest import payments

START = datetime(2020, 1, 1, tzinfo=UTC)
CONTRACT = Contract(
    "tests",
    "service",
    (Feature("count_1d", "spending", "count_1d", "int64"), Feature("mean_1d", "spending", "mean_1d", "float64")),
    (SPENDING,),
)


@pytest.fixture
def store():
    """An online store in memory."""
    return MemoryStore()


@pytest.fixture
def writer(store):
    """Writes to the store in memory."""
    return Writer("tests", store)


def counted(store, customer, at):
    """The number of payments of the last day that the online store knows at ``at``."""
    vectors = Reader(CONTRACT, store).read({"customer": [customer]}, np.array([to_micros(at)]))
    return int(vectors.column("spending", "count_1d")[0])


class DeadRedis:
    """An online store that does not answer."""

    def write(self, view, table, *, now=None):
        """Fail."""
        raise OnlineStoreError("Redis is down")


def test_a_push_counts_online_and_in_the_table(repo, store, writer):
    """A pushed event is in the table and in the windows of every view that reads from it, derived knowledge time included."""
    report = push(repo, "payments_push", payments(6), writer=writer, now=NOW)
    assert (report.offline.rows_added, report.online) == (6, {"spending": 6})
    assert held(repo, "payments").num_rows == 6
    assert counted(store, 0, START + timedelta(hours=3)) == 1
    assert counted(store, 0, START + timedelta(hours=3, microseconds=1)) == 2


def test_a_push_again_changes_nothing(repo, store, writer):
    """Pushing the same events again adds nothing to the table and nothing online."""
    for expected in (6, 0):
        report = push(repo, "payments", payments(6), writer=writer, now=NOW)
        assert (report.offline.rows_added, report.online["spending"]) == (expected, expected)


def test_a_known_id_with_other_content_stays_what_it_was_on_both_sides(repo, store, writer):
    """Where the table holds an id already, the online store gets the table's row and not the pushed one."""
    ingest(repo, "payments", payments(1, amount=pa.array([10.0])), now=NOW)
    push(repo, "payments", payments(1, amount=pa.array([99.0])), writer=writer, now=NOW)
    vectors = Reader(CONTRACT, store).read({"customer": [0]}, np.array([to_micros(START) + DAY // 2]))
    assert vectors.column("spending", "mean_1d").tolist() == [10.0]


def test_bad_rows_of_a_push_go_nowhere_but_to_quarantine(repo, store, writer):
    """What is not good enough for the table is not served either."""
    report = push(repo, "payments", payments(3, amount=pa.array([1.0, -1.0, 2.0])), writer=writer, now=NOW)
    assert (report.offline.quarantined, report.online) == (1, {"spending": 2})
    assert [r["reason"] for r in set_aside(repo, "payments")] == ["amount: not >= 0"]


def test_a_push_that_redis_refused_is_completed_by_pushing_again(repo, store, writer):
    """With Redis down the table has the rows and the error says so; the second push adds what is missing online."""
    with pytest.raises(OnlineStoreError):
        push(repo, "payments", payments(3), writer=DeadRedis(), now=NOW)
    report = push(repo, "payments", payments(3), writer=writer, now=NOW)
    assert (report.offline.rows_added, report.online) == (0, {"spending": 3})


def test_a_pusher_is_online_at_once_and_commits_in_larger_parts(repo, store, writer):
    """Each push counts online when the call returns; the table gets one commit for each ``flush_rows`` rows and one at the end."""
    with Pusher(repo, ["payments"], writer=writer, flush_rows=4) as pusher:
        for i in range(6):
            moment = START + timedelta(minutes=i)
            row = {"id": i, "paid_at": moment, "customer": 0, "amount": 1.0, "kind": "card"}
            assert pusher.push("payments", [row]) == {"spending": 1}
            assert counted(store, 0, moment + timedelta(seconds=1)) == i + 1
        assert states(repo)[0].rows == 4
    assert (states(repo)[0].rows, states(repo)[0].version) == (6, 1)
    assert [r.rows_added for r in pusher.reports] == [4, 2]


def test_a_pusher_commits_what_it_has_when_its_block_fails(repo, writer):
    """Leaving the block by an exception commits what was pushed before."""

    def fail():
        with Pusher(repo, ["payments"], writer=writer) as pusher:
            pusher.push("payments", payments(3))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert states(repo)[0].rows == 3


def test_what_a_pusher_lost_in_a_crash_is_completed_by_pushing_again(repo, store, writer):
    """A pusher that dies leaves the table behind; the same events again complete it and count once online."""
    lost = Pusher(repo, ["payments"], writer=writer)
    lost.push("payments", payments(5))
    assert states(repo)[0].rows is None
    with Pusher(repo, ["payments"], writer=writer) as pusher:
        assert pusher.push("payments", payments(5)) == {"spending": 0}
    assert states(repo)[0].rows == 5


def test_a_pusher_says_what_it_cannot_push(repo, writer):
    """An unknown table, a table that it was not made for, and a missing column are one line each."""
    with pytest.raises(NotFoundError, match="payment"):
        Pusher(repo, ["payment"], writer=writer)
    pusher = Pusher(repo, ["payments"], writer=writer)
    with pytest.raises(UsageError, match="'readings'"):
        pusher.push("readings", payments(1))
    with pytest.raises(SchemaError, match="amount"):
        pusher.push("payments", payments(1).drop_columns(["amount"]))


def test_a_batch_that_redis_refused_is_not_remembered(repo):
    """A pusher keeps for the table only what was made to count online."""
    with Pusher(repo, ["payments"], writer=DeadRedis()) as pusher, pytest.raises(OnlineStoreError):
        pusher.push("payments", payments(2))
    assert states(repo)[0].rows is None
