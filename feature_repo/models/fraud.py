"""Whether a card payment is a fraud, scored at the moment of the payment.

The split has the shape of the *Reproducible Machine Learning for Credit Card Fraud Detection* handbook: a week to learn from, a week
for its last verdicts to arrive, a week to be judged on, from which customers are left out whose fraud is known by then. The
handbook's own weeks are ``asof train fraud --test-start 2018-08-08``.
"""

from asof.training.model import Decision, Fit, LabelledRows, Metric, Model, Split, Suspicion

fraud = Model(
    name="fraud",
    service="fraud_v1",
    rows=LabelledRows(
        table="transactions",
        event_time="tx_datetime",
        id="transaction_id",
        keys=("customer_id", "terminal_id"),
        label="tx_fraud",
        label_table="fraud_reports",
        label_time="reported_at",
    ),
    label_delay="7 days",
    split=Split(train="7 days", delay="7 days", test="7 days", leave_out_known="customer_id"),
    fit=Fit(
        parameters={
            "learning_rate": 0.05,
            "num_leaves": 15,
            "min_data_in_leaf": 50,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 5.0,
            "metric": "average_precision",
        },
        rounds=1_000,
        patience=50,
        hold_out="2 days",
    ),
    metrics=(
        Metric("auc"),
        Metric("average_precision"),
        Metric("precision_at", name="card_precision@100", k=100, key="customer_id"),
        Metric("log_loss"),
    ),
    thresholds={"auc": 0.88, "average_precision": 0.66, "card_precision@100": 0.29},
    decision=Decision("f1"),
    suspicion=Suspicion(auc=0.95, feature_auc=0.95),
    unit="customer_id",
)
