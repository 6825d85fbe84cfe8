"""Features computed from the payment itself at the moment of the request.

This module imports neither Feast nor pandas: a serving worker imports it as it is, and training calls the very same
function. It reads no clock; the request carries its time. A missing value is None.

The function stands alone, without a name from outside its body: where Feast itself calls it, Feast has rebuilt it from the text of
its definition in the registry.
"""


def payment_context(inputs: dict[str, list]) -> dict[str, list]:
    """The features of n payments, each a list of n values.

    Returns:
        amount: The amount.
        weekend: 1 on Saturdays and Sundays, UTC.
        night: 1 from midnight to six in the morning, UTC.
        amount_ratio: The amount in units of the customer's mean of the last 30 days; missing where that is missing or 0.
    """
    from datetime import UTC

    amounts, usual = inputs["tx_amount"], inputs["customer_amount_mean_30d"]
    moments = [m.astimezone(UTC) if m and m.tzinfo else m for m in inputs["tx_datetime"]]
    return {
        "amount": list(amounts),
        "weekend": [None if m is None else int(m.weekday() >= 5) for m in moments],
        "night": [None if m is None else int(m.hour < 6) for m in moments],
        "amount_ratio": [None if a is None or not u or u != u else a / u for a, u in zip(amounts, usual, strict=True)],
    }
