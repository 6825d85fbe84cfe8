"""Feature views: windows of 1, 7 and 30 days over payments and over fraud reports.

A window of 7 days at a moment t holds the events of (t - 7 days, t] that are known at t. The payment being scored is not among
them: see ``sources``.
"""

from datetime import timedelta

from feast import Field, StreamFeatureView
from feast.aggregation import Aggregation
from feast.types import Float64, Int64

from entities import customer, terminal
from sources import fraud_reports_push, transactions_push

WINDOWS = {"1d": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}

customer_spending = StreamFeatureView(
    name="customer_spending",
    description="How often and how much a customer pays.",
    entities=[customer],
    source=transactions_push,
    timestamp_field="tx_datetime",
    schema=[
        Field(name="customer_id", dtype=Int64),
        *(Field(name=f"customer_payments_{w}", dtype=Int64) for w in WINDOWS),
        *(Field(name=f"customer_amount_mean_{w}", dtype=Float64) for w in WINDOWS),
        *(Field(name=f"customer_amount_max_{w}", dtype=Float64) for w in WINDOWS),
        *(Field(name=f"customer_amount_std_{w}", dtype=Float64) for w in WINDOWS),
    ],
    aggregations=[
        *(Aggregation("tx_amount", "count", span, name=f"customer_payments_{w}") for w, span in WINDOWS.items()),
        *(Aggregation("tx_amount", "mean", span, name=f"customer_amount_mean_{w}") for w, span in WINDOWS.items()),
        *(Aggregation("tx_amount", "max", span, name=f"customer_amount_max_{w}") for w, span in WINDOWS.items()),
        *(Aggregation("tx_amount", "std", span, name=f"customer_amount_std_{w}") for w, span in WINDOWS.items()),
    ],
)

terminal_risk = StreamFeatureView(
    name="terminal_risk",
    description="How many payments at a terminal were reported on, how many of them as fraud, and the share.",
    entities=[terminal],
    source=fraud_reports_push,
    timestamp_field="reported_at",
    schema=[
        Field(name="terminal_id", dtype=Int64),
        *(Field(name=f"terminal_reports_{w}", dtype=Int64) for w in WINDOWS),
        *(Field(name=f"terminal_frauds_{w}", dtype=Int64) for w in WINDOWS),
        *(Field(name=f"terminal_fraud_share_{w}", dtype=Float64) for w in WINDOWS),
    ],
    aggregations=[
        *(Aggregation("tx_fraud", "count", span, name=f"terminal_reports_{w}") for w, span in WINDOWS.items()),
        *(Aggregation("tx_fraud", "sum", span, name=f"terminal_frauds_{w}") for w, span in WINDOWS.items()),
        *(Aggregation("tx_fraud", "mean", span, name=f"terminal_fraud_share_{w}") for w, span in WINDOWS.items()),
    ],
)

customer_risk = StreamFeatureView(
    name="customer_risk",
    description="How many of a customer's own payments were reported as fraud, and their share.",
    entities=[customer],
    source=fraud_reports_push,
    timestamp_field="reported_at",
    schema=[
        Field(name="customer_id", dtype=Int64),
        *(Field(name=f"customer_frauds_{w}", dtype=Int64) for w in WINDOWS),
        *(Field(name=f"customer_fraud_share_{w}", dtype=Float64) for w in WINDOWS),
    ],
    aggregations=[
        *(Aggregation("tx_fraud", "sum", span, name=f"customer_frauds_{w}") for w, span in WINDOWS.items()),
        *(Aggregation("tx_fraud", "mean", span, name=f"customer_fraud_share_{w}") for w, span in WINDOWS.items()),
    ],
)
