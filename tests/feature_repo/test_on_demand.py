"""The example's on-demand features, by hand."""

import importlib.util
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest


@pytest.fixture(scope="module")
def payment_context(root):
    """The function behind the on-demand features."""
    spec = importlib.util.spec_from_file_location("on_demand_under_test", root / "feature_repo" / "on_demand.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.payment_context


def inputs(moment=datetime(2018, 8, 8, 12, tzinfo=UTC), amount=30.0, usual=20.0):
    """One payment."""
    return {"tx_amount": [amount], "tx_datetime": [moment], "customer_amount_mean_30d": [usual]}


def test_a_payment_in_units_of_the_usual_amount(payment_context):
    """The amount is passed on, and divided by the customer's mean."""
    assert payment_context(inputs()) == {"amount": [30.0], "weekend": [0], "night": [0], "amount_ratio": [1.5]}


@pytest.mark.parametrize("usual", [None, 0.0, float("nan")])
def test_without_a_usual_amount_the_ratio_is_missing(payment_context, usual):
    """A customer without history has no usual amount, however that is said."""
    assert payment_context(inputs(usual=usual))["amount_ratio"] == [None]


@pytest.mark.parametrize(
    ("moment", "weekend", "night"),
    [
        (datetime(2018, 8, 10, 23, 59, 59, tzinfo=UTC), 0, 0),
        (datetime(2018, 8, 11, tzinfo=UTC), 1, 1),
        (datetime(2018, 8, 12, 23, 59, 59, tzinfo=UTC).replace(tzinfo=None), 1, 0),
        (datetime(2018, 8, 13, 5, 59, 59, tzinfo=UTC), 0, 1),
        (datetime(2018, 8, 13, 6, tzinfo=UTC), 0, 0),
        (datetime(2018, 8, 13, 1, tzinfo=timezone(timedelta(hours=2))), 1, 0),
        (None, None, None),
    ],
)
def test_weekend_and_night_are_those_of_utc(payment_context, moment, weekend, night):
    """Saturday and Sunday, and midnight to six, are counted in UTC whatever zone the moment is in; no moment, no feature."""
    found = payment_context(inputs(moment))
    assert (found["weekend"], found["night"]) == ([weekend], [night])


def test_the_module_needs_nothing_that_is_slow_to_import(root):
    """A serving worker imports this module: neither Feast nor pandas nor numpy comes with it."""
    code = "import on_demand, sys; print(sorted({'feast', 'pandas', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "feature_repo", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
