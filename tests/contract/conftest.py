"""A contract with every kind of part, made by hand."""

import pytest

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, OnDemandView, Source, View

DAY = 86_400_000_000


@pytest.fixture
def contract() -> Contract:
    """A plain view, a windowed view, and an on-demand view that reads both."""
    source = Source(
        "orders", "data/orders", "delta", "ordered_at", "known_at", {"amt": "amount"}, "order_id", "orders_push"
    )
    plain = View(
        name="profile", alias="buyer_profile", join_keys=(JoinKey("user_id", "buyer_id", "int64"),),
        features=(Field("age", "int64"), Field("city", "string"), Field("limit", "float64")), ttl=DAY, source=source,
    )  # fmt: skip
    windowed = View(
        name="spending", alias="spending", join_keys=(JoinKey("buyer_id", "buyer_id", "int64"),),
        features=(Field("count_1d", "int64"), Field("mean_7d", "float64")), ttl=0, source=source,
        aggregations=(Aggregation("count_1d", "amount", "count", DAY), Aggregation("mean_7d", "amount", "mean", 7 * DAY)),
    )  # fmt: skip
    ratio = OnDemandView(
        name="context", alias="context", function="functions:ratio", source_hash="ab" * 32, mode="python", singleton=False,
        inputs=(("spending", "mean_7d"), ("buyer_profile", "limit")), request=(Field("amount", "float64"),),
        features=(Field("ratio", "float64"),),
    )  # fmt: skip
    features = (
        Feature("ratio", "context", "ratio", "float64", on_demand=True),
        Feature("age", "buyer_profile", "age", "int64"),
        Feature("count_1d", "spending", "count_1d", "int64"),
    )
    return Contract("shop", "orders_v1", features, (plain, windowed), (ratio,))
