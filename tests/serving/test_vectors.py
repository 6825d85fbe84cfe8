"""Feature vectors are assembled in the same way for every caller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asof import feature_vectors
from asof.contract import Contract, Field
from asof.errors import ContractError, SchemaError

STORED: dict[tuple[str, str], Any] = {
    ("machine_loads", "load_count_1d"): np.array([2.0, 0.0]),
    ("machine_loads", "load_mean_1d"): np.array([4.0, np.nan]),
    ("machine_loads", "load_max_7d"): np.array([7.5, np.nan]),
    ("site_state", "crew"): np.array([3.0, np.nan]),
    ("site_state", "grade"): ["A", None],
    ("site_state", "open"): np.array([1.0, np.nan]),
}
MOMENTS = [datetime(2024, 5, 1, 13, 30, tzinfo=UTC), datetime.fromisoformat("2024-05-01T13:30:00")]
REQUEST: dict[str, list[Any]] = {"load": [8.0, 8.0], "read_at": MOMENTS}


def test_features_come_in_the_order_of_the_service(contract: Contract) -> None:
    """The columns are exactly the service's features, in its order."""
    assert tuple(feature_vectors.assemble(contract, STORED, REQUEST)) == contract.feature_names


def test_on_demand_functions_see_stored_and_request_values(contract: Contract) -> None:
    """A ratio of a request field to a stored feature is the quotient, and missing where the stored one is."""
    found = feature_vectors.assemble(contract, STORED, REQUEST)
    np.testing.assert_array_equal(found["ratio"], [2.0, np.nan])


def test_naive_and_foreign_moments_mean_the_same_instant(contract: Contract) -> None:
    """A naive moment means UTC, and functions get an aware datetime."""
    found = feature_vectors.assemble(contract, STORED, REQUEST)
    np.testing.assert_array_equal(found["hour"], [13, 13])


def test_arrays_and_lists_give_the_same_vector(contract: Contract) -> None:
    """NaN in an array and None in a list are the same missing value."""
    listed = {k: [None if isinstance(v, float) and np.isnan(v) else v for v in values] for k, values in STORED.items()}
    first, second = (
        feature_vectors.assemble(contract, STORED, REQUEST),
        feature_vectors.assemble(contract, listed, REQUEST),
    )
    for name in contract.feature_names:
        np.testing.assert_array_equal(first[name], second[name])


def test_functions_get_whole_numbers_as_int() -> None:
    """An int64 feature reaches a function as int although vectors hold float64."""
    assert [type(v) for v in feature_vectors.as_python(Field("n", "int64"), np.array([3.0, np.nan]))] == [
        int,
        type(None),
    ]


def test_a_matrix_holds_the_numeric_features_asked_for(contract: Contract) -> None:
    """Columns stand in the order asked for and missing is NaN."""
    columns = feature_vectors.assemble(contract, STORED, REQUEST)
    np.testing.assert_array_equal(
        feature_vectors.matrix(contract, columns, ["open", "ratio"]), [[1.0, 2.0], [np.nan, np.nan]]
    )


def test_a_matrix_refuses_text(contract: Contract) -> None:
    """A feature that is no number is refused by name instead of being coded silently."""
    with pytest.raises(SchemaError, match="grade"):
        feature_vectors.matrix(contract, feature_vectors.assemble(contract, STORED, REQUEST))


def test_a_stored_feature_that_was_not_read_is_named(contract: Contract) -> None:
    """Forgetting a stored feature is an error that names it, not a missing value."""
    with pytest.raises(SchemaError, match="site_state:crew"):
        feature_vectors.assemble(contract, {k: v for k, v in STORED.items() if k[1] != "crew"}, REQUEST)


@pytest.mark.parametrize("value", [1.5, float("inf")])
def test_whole_number_features_refuse_fractions(value: float) -> None:
    """What an int64 feature cannot hold is an error, not a rounded value."""
    with pytest.raises(ContractError, match="whole number"):
        feature_vectors.as_column(Field("n", "int64"), [value])


def test_float32_features_are_rounded_as_they_are_stored() -> None:
    """A float32 feature has the value that float32 can hold, so that both sides round alike."""
    assert feature_vectors.as_column(Field("x", "float32"), [0.1])[0] == float(np.float32(0.1))


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_moments_survive_whatever_form_they_come_in(moment: datetime) -> None:
    """Microseconds since the epoch and an aware datetime reach a function as the same instant."""
    field = Field("t", "unixtimestamp")
    micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if datetime(1, 1, 2, tzinfo=UTC) < moment < datetime(9999, 12, 30, tzinfo=UTC):
        assert feature_vectors.as_python(field, [micros]) == feature_vectors.as_python(field, [moment])
