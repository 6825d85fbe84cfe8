"""A small contract of another domain than the example's: readings of machines, with every kind of feature."""

from __future__ import annotations

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, OnDemandView, Source, View

DAY = 86_400_000_000

FUNCTIONS = """
def context(inputs):
    usual = inputs["load_mean_1d"]
    return {
        "ratio": [v / u if v is not None and u else None for v, u in zip(inputs["load"], usual)],
        "hour": [None if t is None else t.hour for t in inputs["read_at"]],
    }
"""
"""Source of the module that the on-demand function lives in."""


def machines(*, module: str = "machine_functions", ttl: int = 3 * DAY) -> Contract:
    """Windows over loads of a machine, a plain view of its site with a text feature, and an on-demand view."""
    loads = View(
        name="machine_loads", alias="machine_loads", join_keys=(JoinKey("machine_id", "machine_id", "int64"),),
        features=(Field("load_count_1d", "int64"), Field("load_mean_1d", "float64"), Field("load_max_7d", "float64")),
        ttl=0,
        source=Source(
            "readings", "data/tables/readings", "delta", "read_at", "known_at",
            event_id="reading_id", push_name="readings_push",
        ),
        aggregations=(
            Aggregation("load_count_1d", "load", "count", DAY),
            Aggregation("load_mean_1d", "load", "mean", DAY),
            Aggregation("load_max_7d", "load", "max", 7 * DAY),
        ),
    )  # fmt: skip
    site = View(
        name="site_state", alias="site_state", join_keys=(JoinKey("site", "site", "string"),),
        features=(Field("crew", "int32"), Field("grade", "string"), Field("open", "bool")),
        ttl=ttl, source=Source("sites", "data/tables/sites", "parquet", "seen_at"),
    )  # fmt: skip
    context = OnDemandView(
        name="context", alias="context", function=f"{module}:context", source_hash="0" * 64,
        mode="python", singleton=False,
        inputs=(("machine_loads", "load_mean_1d"),),
        request=(Field("load", "float64"), Field("read_at", "unixtimestamp")),
        features=(Field("ratio", "float64"), Field("hour", "int64")),
    )  # fmt: skip
    features = [Feature(f.name, "machine_loads", f.name, f.dtype) for f in loads.features]
    features += [Feature(f.name, "site_state", f.name, f.dtype) for f in site.features]
    features += [Feature(f.name, "context", f.name, f.dtype, on_demand=True) for f in context.features]
    return Contract("machines", "breakdown_v1", tuple(features), (loads, site), (context,))
