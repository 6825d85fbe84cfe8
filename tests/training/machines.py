"""A little world without Feast: machines report their load, and days later it is found out which readings preceded a fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from asof.contract import Aggregation, Contract, Feature, Field, JoinKey, Source, View
from asof.instants import DAY, SECOND
from asof.tables.schema import TableDeclaration
from asof.training.dataset import Tables
from asof.training.model import Fit, LabelledRows, Metric, Model, Split

START = 1_700_006_400 * SECOND
"""2023-11-15, midnight."""

DAYS, MACHINES, A_DAY, DELAY = 24, 60, 6, 2

READINGS = TableDeclaration("readings", "readings.parquet", "parquet", "read_at", "known_at")
FAULTS = TableDeclaration("faults", "faults.parquet", "parquet", "found_at", "known_at")

MODEL = Model(
    name="breakdown",
    service="breakdown_v1",
    rows=LabelledRows(
        table="readings", event_time="read_at", id="reading_id", keys=("machine_id",), label="fault", label_table="faults", label_time="found_at"
    ),
    label_delay=f"{DELAY} days",
    split=Split(train="6 days", test="4 days", leave_out_known="machine_id"),
    fit=Fit(parameters={"num_leaves": 4, "min_data_in_leaf": 5, "learning_rate": 0.2}, rounds=30, patience=5),
    metrics=(Metric("auc"), Metric("average_precision"), Metric("log_loss"), Metric("precision_at", k=5, key="machine_id")),
    unit="machine_id",
)  # fmt: skip


def write(folder: Path, seed: int = 1, delay_us: int = DELAY * DAY) -> None:
    """Both tables as Parquet files in ``folder``; a fault is found ``delay_us`` after its reading."""
    random = np.random.default_rng(seed)
    size = DAYS * MACHINES * A_DAY
    time = np.sort(START + random.integers(0, DAYS * DAY // SECOND, size) * SECOND)
    machine = random.integers(0, MACHINES, size)
    worn = random.random((MACHINES, DAYS)) < 0.15
    load = random.gamma(4, 10, size) + 25 * worn[machine, (time - START) // DAY]
    fault = (worn[machine, (time - START) // DAY] & (random.random(size) < 0.95)) | (random.random(size) < 0.002)
    ids = pa.array(np.arange(size))
    pq.write_table(
        pa.table(
            {
                "reading_id": ids,
                "read_at": moments(time),
                "machine_id": machine,
                "load": load,
                "known_at": moments(time + 1),
            }
        ),
        folder / "readings.parquet",
    )
    found = moments(time + delay_us)
    columns = {
        "reading_id": ids,
        "read_at": moments(time),
        "found_at": found,
        "machine_id": machine,
        "fault": fault.astype(np.int8),
    }
    pq.write_table(pa.table({**columns, "known_at": found}), folder / "faults.parquet")


def moments(micros: np.ndarray) -> pa.Array:
    """Microseconds as Arrow moments in UTC."""
    return pa.array(micros, pa.timestamp("us", "UTC"))


def tables(folder: Path, model: Model = MODEL, contract: Contract | None = None) -> Tables:
    """The tables in ``folder``, open."""
    return Tables.of(model, contract or CONTRACT, folder, READINGS, FAULTS)


def event_at_reading(contract: Contract) -> Contract:
    """The contract with a fault's event time at its reading; only its knowledge time still says when it was found."""
    views = [
        replace(v, source=replace(v.source, timestamp_field="read_at")) if v.source.name == "faults" else v
        for v in contract.views
    ]
    return replace(contract, views=tuple(views))


def _view(name: str, source: Source, column: str, functions: tuple[str, ...]) -> View:
    aggregations = tuple(
        Aggregation(f"{name}_{f}_{days}d", column, f, days * DAY)  # type: ignore[arg-type]
        for f in functions
        for days in (1, 5)
    )
    key = JoinKey("machine_id", "machine_id", "int64")
    fields = tuple(Field(a.name, "int64" if a.function == "count" else "float64") for a in aggregations)
    return View(name, name, (key,), fields, 0, source, aggregations)


def _contract() -> Contract:
    readings = Source("readings", "readings.parquet", "parquet", "read_at", "known_at")
    faults = Source("faults", "faults.parquet", "parquet", "found_at", "known_at")
    views = (
        _view("load", readings, "load", ("count", "mean", "max")),
        _view("faults", faults, "fault", ("count", "sum", "mean")),
    )
    features = tuple(Feature(f.name, v.alias, f.name, f.dtype) for v in views for f in v.features)
    return Contract("factory", "breakdown_v1", features, views)


CONTRACT = _contract()
