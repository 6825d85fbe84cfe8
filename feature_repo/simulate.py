"""Simulates card payments, some of them fraudulent.

The process is the one of the *Reproducible Machine Learning for Credit Card Fraud Detection* handbook (chapter 3). Customers and
terminals lie in a square of 100 x 100, and a customer pays only at terminals within a distance of 5. Payments a day
are Poisson(rate), rate ~ U(0, 4); amounts N(m, m/2), m ~ U(5, 100), a negative one drawn again from U(0, 2m);
times of day N(noon, 20,000 s), those outside the day left out. Three kinds of fraud are mixed in: amounts above
220; two terminals a day whose payments are frauds for 28 days; three customers a day of whose payments in the next 14 days
a third are five times as high, and frauds.

Feast ignores this file (``.feastignore``); ``asof simulate`` calls :func:`simulate` with options made from its signature.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time

import numpy as np
import pyarrow as pa
from scipy.spatial import cKDTree

SIDE = 100.0
REACH = 5.0
DAY = 86_400
HIGH_AMOUNT = 220.0
TERMINALS_A_DAY, TERMINAL_DAYS = 2, 28
CUSTOMERS_A_DAY, CUSTOMER_DAYS = 3, 14


def simulate(
    customers: int = 5_000, terminals: int = 10_000, days: int = 183, seed: int = 0, start: date = date(2018, 4, 1)
) -> pa.Table:
    """Payments in time order; the same arguments give the same rows.

    Args:
        customers: Number of customers, at least 1; some are out of reach of every terminal and never pay.
        terminals: Number of terminals, at least 1.
        days: Number of days, at least 1.
        seed: Seed of the random numbers, at least 0.
        start: First day, UTC.

    Returns:
        A row for each payment: transaction_id, tx_datetime (microseconds, UTC), customer_id, terminal_id, tx_amount, tx_fraud.
    """
    random = np.random.default_rng(seed)
    mean = random.uniform(5, 100, customers)
    customer, seconds = _payments(random, customers, days)
    terminal = _terminals(random, customer, customers, terminals)
    reached = terminal >= 0
    customer, terminal, seconds = customer[reached], terminal[reached], seconds[reached]
    order = np.argsort(seconds, kind="stable")
    customer, terminal, seconds = customer[order], terminal[order], seconds[order]
    amount = _amounts(random, mean[customer])
    fraud = _frauds(random, customer, terminal, seconds // DAY, amount, (customers, terminals, days))
    return _table(customer, terminal, seconds, amount, fraud, start)


def _payments(random: np.random.Generator, customers: int, days: int) -> tuple[np.ndarray, np.ndarray]:
    """The customer of each payment and its time in seconds after the start."""
    count = random.poisson(random.uniform(0, 4, customers)[:, None], (customers, days))
    customer, day = (np.repeat(index.ravel(), count.ravel()) for index in np.indices(count.shape))
    time_of_day = random.normal(DAY / 2, 20_000, len(customer)).astype(np.int64)
    inside = (time_of_day > 0) & (time_of_day < DAY)
    return customer[inside], (day * DAY + time_of_day)[inside]


def _terminals(random: np.random.Generator, customer: np.ndarray, customers: int, terminals: int) -> np.ndarray:
    """The terminal of each payment, chosen uniformly among those in reach; -1 if none is."""
    homes = cKDTree(random.uniform(0, SIDE, (customers, 2)))
    places = cKDTree(random.uniform(0, SIDE, (terminals, 2)))
    near = homes.query_ball_tree(places, REACH)
    count = np.array([len(n) for n in near])
    first = np.cumsum(count) - count
    flat = np.array([t for n in near for t in sorted(n)] or [-1])
    draw = np.floor(random.uniform(size=len(customer)) * count[customer]).astype(np.int64)
    return np.where(count[customer] > 0, flat[np.minimum(first[customer] + draw, len(flat) - 1)], -1)


def _amounts(random: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    amount = random.normal(mean, mean / 2)
    return np.round(np.where(amount < 0, random.uniform(0, 2 * mean), amount), 2)


def _frauds(
    random: np.random.Generator,
    customer: np.ndarray,
    terminal: np.ndarray,
    day: np.ndarray,
    amount: np.ndarray,
    sizes: tuple[int, int, int],
) -> np.ndarray:
    """1 for frauds; raises the amounts of compromised customers in place."""
    customers, terminals, days = sizes
    fraud = amount > HIGH_AMOUNT
    for rows in _episodes(random, terminal, day, terminals, days, TERMINALS_A_DAY, TERMINAL_DAYS):
        fraud[rows] = True
    for rows in _episodes(random, customer, day, customers, days, CUSTOMERS_A_DAY, CUSTOMER_DAYS):
        third = random.choice(rows, len(rows) // 3, replace=False)
        amount[third] = np.round(amount[third] * 5, 2)
        fraud[third] = True
    return fraud


def _episodes(
    random: np.random.Generator, who: np.ndarray, day: np.ndarray, size: int, days: int, new_a_day: int, lasting: int
) -> Iterator[np.ndarray]:
    """For each newly compromised one of ``size``: the rows of its payments of the ``lasting`` days that follow."""
    order = np.argsort(who, kind="stable")
    bounds = np.searchsorted(who[order], np.arange(size + 1))
    for start in range(days):
        for one in random.choice(size, min(new_a_day, size), replace=False):
            rows = order[bounds[one] : bounds[one + 1]]
            first, last = np.searchsorted(day[rows], (start, start + lasting))
            yield rows[first:last]


def _table(
    customer: np.ndarray, terminal: np.ndarray, seconds: np.ndarray, amount: np.ndarray, fraud: np.ndarray, start: date
) -> pa.Table:
    midnight = int(datetime.combine(start, time(), UTC).timestamp())
    return pa.table(
        {
            "transaction_id": pa.array(np.arange(len(customer)), pa.int32()),
            "tx_datetime": pa.array((midnight + seconds) * 1_000_000, pa.timestamp("us", "UTC")),
            "customer_id": pa.array(customer, pa.int32()),
            "terminal_id": pa.array(terminal, pa.int32()),
            "tx_amount": pa.array(amount, pa.float64()),
            "tx_fraud": pa.array(fraud, pa.int8()),
        }
    )
