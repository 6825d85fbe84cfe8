"""The tables of payments and fraud reports, with their event times and knowledge times.

``transactions`` has one row for each payment. Its event time is the payment's, its knowledge time one microsecond later.
That microsecond is how **the payment being scored stays out of its own features**: a row counts at a moment t only if the
later of its event time and its knowledge time is at or before t, online and offline alike. A payment that is
scored at its own ``tx_datetime`` is therefore never known yet, nor is any other payment of the very same moment,
whether its row has already been written (training, a replay) or not (live).
(Feast's own ``get_historical_features`` looks at knowledge times only with ``filter_by_created_timestamp=True``; asof always does.)

``fraud_reports`` has one row for each payment as well: its verdict, 0 or 1, as an event of its own that happens
seven days after the payment and is known from then on. A label is thus never known before its time, and a payment without fraud
is reported too, so that the share of frauds among the reported payments is a mean.

The tags tell ``asof ingest`` what to expect: the column that identifies an event, type and range of each column, and how to
derive a column that the file does not have (grammar: ``asof.tables.schema``).
"""

from feast import FileSource, PushSource
from feast.data_format import DeltaFormat

transactions = FileSource(
    name="transactions",
    path="data/tables/transactions",
    file_format=DeltaFormat(),
    timestamp_field="tx_datetime",
    created_timestamp_column="known_at",
    description="Card payments.",
    tags={
        "asof.id": "transaction_id",
        "asof.column.transaction_id": "int64 >= 0",
        "asof.column.tx_datetime": "timestamp",
        "asof.column.customer_id": "int64 >= 0",
        "asof.column.terminal_id": "int64 >= 0",
        "asof.column.tx_amount": "float64 >= 0 required",
        "asof.column.known_at": "timestamp",
        "asof.derive.known_at": "tx_datetime + 1 microsecond",
    },
)

fraud_reports = FileSource(
    name="fraud_reports",
    path="data/tables/fraud_reports",
    file_format=DeltaFormat(),
    timestamp_field="reported_at",
    created_timestamp_column="known_at",
    description="The verdict on each payment, a week later.",
    tags={
        "asof.id": "transaction_id",
        "asof.column.transaction_id": "int64 >= 0",
        "asof.column.tx_datetime": "timestamp",
        "asof.column.reported_at": "timestamp",
        "asof.column.customer_id": "int64 >= 0",
        "asof.column.terminal_id": "int64 >= 0",
        "asof.column.tx_fraud": "int8 in 0..1 required",
        "asof.column.known_at": "timestamp",
        "asof.derive.reported_at": "tx_datetime + 7 days",
        "asof.derive.known_at": "reported_at + 0 days",
    },
)

transactions_push = PushSource(name="transactions_push", batch_source=transactions)

fraud_reports_push = PushSource(name="fraud_reports_push", batch_source=fraud_reports)
