"""The feature service that the fraud model reads.

``fraud_v1`` holds everything known about a payment at the moment it is scored. Its on-demand features come from the functions
of :mod:`on_demand`, declared here with what they read and return.
"""

from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

import on_demand
from views import customer_risk, customer_spending, terminal_risk

payment = RequestSource(
    name="payment",
    schema=[Field(name="tx_amount", dtype=Float64), Field(name="tx_datetime", dtype=UnixTimestamp)],
    description="The payment to score.",
)

payment_context = on_demand_feature_view(
    sources=[payment, customer_spending[["customer_amount_mean_30d"]]],
    schema=[
        Field(name="amount", dtype=Float64),
        Field(name="weekend", dtype=Int64),
        Field(name="night", dtype=Int64),
        Field(name="amount_ratio", dtype=Float64),
    ],
    mode="python",
    description="The payment itself, and how unusual it is for this customer.",
)(on_demand.payment_context)

fraud_v1 = FeatureService(
    name="fraud_v1",
    features=[customer_spending, terminal_risk, customer_risk, payment_context],
    description="Everything known about a payment at the moment it is scored.",
)
