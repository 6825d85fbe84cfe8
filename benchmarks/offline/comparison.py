"""Sides of a shape run in turn, several times, each run in a process of its own; answers compared, times put side by side."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.offline.shapes import Shape, write

PATIENCE = 60.0
"""A side whose first run took this many seconds is not run again."""


@dataclass
class Runs:
    """What a side's runs cost: seconds, processor seconds, and peak bytes of its process."""

    side: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def work(self) -> float:
        """Median processor seconds: what remains comparable on a machine that has other work."""
        return statistics.median(self.cpu)

    @property
    def peak(self) -> int:
        """Median peak memory."""
        return int(statistics.median(self.peaks))

    @property
    def spread(self) -> str:
        """Fastest and slowest run."""
        return f"{min(self.seconds):.3g}..{max(self.seconds):.3g}"


@dataclass
class Comparison:
    """All sides of a shape; the first is ours."""

    shape: str
    runs: list[Runs]
    differences: dict[str, int]

    def to_dict(self) -> dict[str, object]:
        """The comparison as JSON-ready data."""
        ours = self.runs[0]
        sides = [
            {
                "side": r.side, "median_seconds": r.median, "seconds": r.seconds, "cpu_seconds": r.cpu, "peak_bytes": r.peak,
                "our_time": ours.median / r.median, "our_cpu": ours.work / r.work, "our_memory": ours.peak / r.peak, "values_that_differ": self.differences[r.side],
            }
            for r in self.runs
        ]  # fmt: skip
        return {"shape": self.shape, "sides": sides}

    def rows(self) -> list[tuple[object, ...]]:
        """The comparison as table rows; times and memory of ours as multiples of the side's."""
        ours = self.runs[0]
        return [
            (
                self.shape, r.side, round(r.median, 3), r.spread, round(r.work, 3), r.peak // 1_000_000, round(ours.median / r.median, 3), round(ours.work / r.work, 3),
                round(ours.peak / r.peak, 3), self.differences[r.side],
            )
            for r in self.runs
        ]  # fmt: skip


HEADER = (
    "shape",
    "side",
    "median s",
    "spread s",
    "cpu s",
    "peak MB",
    "our time x",
    "our cpu x",
    "our memory x",
    "values that differ",
)


def compare(shape: Shape, sides: Sequence[str], folder: Path, repeats: int) -> Comparison:
    """Run ``sides`` of ``shape`` in turn, ``repeats`` times (slow ones once), and compare their answers with the first's."""
    place = write(shape, folder)
    runs = {side: Runs(side) for side in sides}
    differences: dict[str, int] = {}
    for number in range(repeats):
        for side in sides:
            if number and runs[side].seconds[0] > PATIENCE:
                continue
            _run(side, place, runs[side])
            if number == 0:
                differences[side] = _differences(place / f"{sides[0]}.result", place / f"{side}.result", shape)
    for side in sides:
        (place / f"{side}.result").unlink()
    return Comparison(f"{shape.name}", list(runs.values()), differences)


def _run(side: str, place: Path, runs: Runs) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.offline.sides",
        side,
        str(place),
        str(place / f"{side}.result"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "FEAST_USAGE": "False"}
    )
    if done.returncode:
        raise SystemExit(f"{side} failed on {place.name}:\n{done.stderr[-2000:]}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    runs.seconds.append(measured["seconds"])
    runs.cpu.append(measured["cpu"])
    runs.peaks.append(measured["peak"])


def _differences(ours: Path, theirs: Path, shape: Shape) -> int:
    """Values of a side that are not ours to 1e-9 (spreads to 1e-6), after both were brought into one order."""
    if ours == theirs:
        return 0
    left, right = pq.read_table(ours), pq.read_table(theirs)
    if left.num_rows != right.num_rows:
        return max(left.num_rows, right.num_rows)
    order = ["id"] if "id" in right.column_names else ["k", "ts"]
    left = left.rename_columns({"event_timestamp": "ts"}) if "ts" in order else left
    positions = [t.select(order).append_column("row", [np.arange(t.num_rows)]) for t in (left, right)]
    first, second = (p.sort_by([(c, "ascending") for c in order])["row"].to_numpy() for p in positions)
    names = [c for t in shape.tables for c in t.columns if c in right.column_names]
    names = names or [c for c in left.column_names if c.rpartition("_")[2].isdigit()]
    return sum(_unequal(left[n].to_numpy()[first], right[n].to_numpy()[second], n) for n in names)


def _unequal(left: np.ndarray, right: np.ndarray, name: str) -> int:
    tolerance = 1e-6 if name.startswith("std") else 1e-9
    same = np.isclose(left.astype(float), right.astype(float), rtol=tolerance, atol=tolerance, equal_nan=True)
    return int((~same).sum())


def growth(shape: Shape, side: str, folder: Path, repeats: int) -> list[tuple[object, ...]]:
    """Time of ``side`` for one, two, four and eight times an eighth of the shape, and per row and doubling of rows."""
    rows = []
    for factor in (1 / 8, 1 / 4, 1 / 2, 1):
        scaled = shape.scaled(factor)
        place = write(scaled, folder)
        runs = Runs(side)
        for _ in range(repeats):
            _run(side, place, runs)
        (place / f"{side}.result").unlink()
        n = scaled.asked + sum(t.rows for t in scaled.tables)
        rows.append(
            (shape.name, n, round(runs.median, 3), runs.spread, round(runs.median / (n * math.log2(n)) * 1e9, 2))
        )
    return rows


GROWTH_HEADER = ("shape", "rows n", "median s", "spread s", "ns per n log2 n")
