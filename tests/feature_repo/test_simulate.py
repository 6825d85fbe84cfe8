"""The example's simulator: its layout, its process, its seeds."""

import importlib.util
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest


@pytest.fixture(scope="module")
def simulate(root):
    """The feature repo's simulator."""
    spec = importlib.util.spec_from_file_location("simulate", root / "feature_repo" / "simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.simulate


@pytest.fixture(scope="module")
def payments(simulate):
    """1,000 customers at 2,000 terminals for 60 days, as numpy columns."""
    table = simulate(1_000, 2_000, 60, 7)
    columns = {n: table[n].to_numpy() for n in table.column_names if n != "tx_datetime"}
    return {
        **columns,
        "seconds": (table["tx_datetime"].cast(pa.int64()).to_numpy() // 1_000_000)
        - int(datetime(2018, 4, 1, tzinfo=UTC).timestamp()),
    }


def test_rows_have_the_layout_of_the_public_data(simulate):
    """Columns, types and order are those of the public data set, so that either can be ingested."""
    table = simulate(50, 100, 10, 1)
    assert table.schema == pa.schema(
        {
            "transaction_id": pa.int32(), "tx_datetime": pa.timestamp("us", "UTC"), "customer_id": pa.int32(),
            "terminal_id": pa.int32(), "tx_amount": pa.float64(), "tx_fraud": pa.int8(),
        }
    )  # fmt: skip
    assert table["transaction_id"].to_pylist() == list(range(table.num_rows))
    times = table["tx_datetime"].to_pylist()
    assert times == sorted(times)


def test_a_seed_decides_everything(simulate):
    """The same arguments give the same rows, another seed others; the start moves them and nothing else."""
    assert simulate(50, 100, 10, 1).equals(simulate(50, 100, 10, 1))
    assert not simulate(50, 100, 10, 1).equals(simulate(50, 100, 10, 2))
    moved = simulate(50, 100, 10, 1, date(2020, 1, 1))
    assert moved.drop_columns("tx_datetime").equals(simulate(50, 100, 10, 1).drop_columns("tx_datetime"))
    assert moved["tx_datetime"][0].as_py().date() == date(2020, 1, 1)


def test_payments_a_day_and_times_of_day_are_as_stated(payments):
    """Two payments a customer and day on average before those outside the day are cut, spread around noon by 20,000 s."""
    inside = 0.969  # P(|z| < 43,200 / 20,000)
    assert len(payments["seconds"]) / (1_000 * 60) == pytest.approx(2 * inside, rel=0.1)
    time_of_day = payments["seconds"] % 86_400
    assert time_of_day.mean() == pytest.approx(43_200, rel=0.01)
    assert time_of_day.std() == pytest.approx(18_400, rel=0.03)


def test_a_customer_pays_in_one_neighbourhood_only(payments):
    """A customer's terminals are those within reach: about 2,000 x 78.5 / 10,000 = 16, never many more."""
    reached = [len(np.unique(payments["terminal_id"][payments["customer_id"] == c])) for c in range(0, 1_000, 50)]
    assert max(reached) <= 35
    assert 5 <= np.mean(reached) <= 17


def test_all_three_kinds_of_fraud_are_there(payments):
    """Amounts above 220 are frauds; some terminals and some customers have many frauds below that."""
    high = payments["tx_amount"] > 220
    assert payments["tx_fraud"][high].all()
    low = ~high & (payments["tx_fraud"] == 1)
    by_terminal = np.bincount(payments["terminal_id"][low])
    assert (by_terminal > 10).sum() >= 20
    shares = payments["tx_fraud"].mean()
    assert 0.005 < shares < 0.2


@pytest.mark.parametrize(("customers", "terminals", "days"), [(1, 1, 1), (3, 1, 2), (1, 500, 5)])
def test_tiny_worlds_work(simulate, customers, terminals, days):
    """Worlds with fewer customers or terminals than are compromised a day, or with nobody in reach, give what there is."""
    assert simulate(customers, terminals, days, 0).num_rows >= 0
