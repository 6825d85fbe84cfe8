"""Runs an example through the whole loop, each step as a user would: with the ``asof`` command line and HTTP.

An example is a folder with ``prepare.py``, ``feature_repo/`` and ``example.toml`` (:class:`Example`). Rows that were known before the
replayed span are the history: it is ingested, the model learns from it, and the online store is filled from it. The other rows
reach the tables and the service only through the replay, each when it becomes known.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import polars as pl

from asof.commands.demo_workspace import DemoStep, DemoWorkspace, prepare, service, stop_redis
from asof.errors import AsofError, SettingsError, UsageError

HERE = Path(__file__).parent

STEPS = 13
"""Steps of a run."""

SAMPLE = 5_000
"""Most rows of the dataset that is made and made again."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """The ``example.toml`` of a folder.

    Attributes:
        folder: The example's folder.
        model: Model that is trained and served.
        service: Its feature service.
        scored: Table whose rows are scored.
        at: Column of that table with the moment of a row.
        known: Table -> column of its file with the moment from which a row is known.
        full: Start (included) and end (excluded) of the replayed span.
        small: The same for ``--small``.
    """

    folder: Path
    model: str
    service: str
    scored: str
    at: str
    known: Mapping[str, str]
    full: Mapping[str, str]
    small: Mapping[str, str]

    @classmethod
    def load(cls, name: str) -> Self:
        """The example of this name.

        Raises:
            UsageError: There is none.
            SettingsError: Its file has other keys than expected.
        """
        if name not in names():
            raise UsageError(f"there is no example {name!r}; there are {', '.join(names())}")
        path = HERE / name / "example.toml"
        expected = [f.name for f in fields(cls) if f.name != "folder"]
        try:
            given = tomllib.loads(path.read_text())
            example = cls(folder=path.parent, **given)
        except (TypeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: expected the keys {', '.join(expected)}; {error}") from error
        for span in (example.full, example.small):
            if sorted(span) != ["end", "start"]:
                raise SettingsError(f"{path}: expected a span to have start and end, got {', '.join(span)}")
        return example


@dataclass
class Outcome:
    """What a run showed.

    Attributes:
        name: Name of the example.
        rows: Rows of all tables.
        predictions: Rows that the service answered.
        compared: Served values that were recomputed.
        mismatches: Those that differ.
        fed: Table -> rows that the replay fed.
        drift: The verdict on the served rows.
        performance: Metric -> its value on the served rows; empty if too few labels were known.
        steps: The steps.
        problems: What was not as it must be, a sentence each.
    """

    name: str
    rows: int = 0
    predictions: int = 0
    compared: int = 0
    mismatches: int = 0
    fed: dict[str, int] = field(default_factory=dict)
    drift: str = ""
    performance: dict[str, float] = field(default_factory=dict)
    steps: list[DemoStep] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Duration of all steps."""
        return sum(step.seconds for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON-ready data."""
        return {**asdict(self), "seconds": round(self.seconds, 1)}


def names() -> list[str]:
    """The examples: every folder with an ``example.toml``."""
    return sorted(path.parent.name for path in HERE.glob("*/example.toml"))


def run(example: Example, into: Path, *, small: bool = False) -> Outcome:
    """Run ``example`` in the folder ``into``, which is empty, missing, or that of an earlier run.

    Raises:
        UsageError: The folder holds other files.
        AsofError: A step failed.
    """
    workspace, _ = prepare(into.resolve(), example.folder / "feature_repo")
    workspace.total = STEPS
    loop = Loop(example, workspace, small, Outcome(example.folder.name, steps=workspace.steps))
    try:
        loop.run()
    finally:
        stop_redis(workspace.repo)
    return loop.outcome


@dataclass
class Loop:
    """The steps of a run; each adds to the outcome what it showed.

    Attributes:
        example: The example.
        workspace: Where it runs.
        small: Whether it runs on a slice of the data.
        outcome: What was shown so far.
    """

    example: Example
    workspace: DemoWorkspace
    small: bool
    outcome: Outcome

    @property
    def span(self) -> tuple[str, str]:
        """Start and end of the replayed span, as ISO dates."""
        span = self.example.small if self.small else self.example.full
        return span["start"], span["end"]

    def file(self, table: str, part: str) -> Path:
        """The file with the ``history`` or the ``live`` part of a table."""
        return self.workspace.folder / part / f"{table}.parquet"

    def run(self) -> None:
        """Run every step."""
        self.steps("prepare", "apply", "ingest", "dataset", "train", "build", "materialize")
        command = [sys.executable, "-m", "asof", "--repo", str(self.workspace.repo), "serve", self.example.model]
        with ExitStack() as running:
            with self.workspace.step("serve") as step:
                address = running.enter_context(
                    service([*command, "--port", "{port}"], self.workspace.folder / "service.log")
                )
                step.happened = f"ready at {address}"
            with self.workspace.step("replay") as step:
                self.replay(step, address)
        self.steps("skew", "profile", "drift", "performance")

    def steps(self, *names: str) -> None:
        """Run these steps."""
        for name in names:
            with self.workspace.step(name) as step:
                getattr(self, name)(step)

    def expect(self, step: DemoStep, fine: bool, problem: str) -> None:
        """Record ``problem`` unless ``fine``."""
        if not fine:
            step.fine = False
            self.outcome.problems.append(f"{step.name}: {problem}")

    def prepare(self, step: DemoStep) -> None:
        """Write the files of the example, and split each into what was known before the span and what became known in it."""
        folder = self.workspace.folder / "all"
        options = ["--small"] if self.small else []
        done = subprocess.run(
            [sys.executable, str(self.example.folder / "prepare.py"), str(folder), *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            last = ([line for line in done.stdout.splitlines() if line.strip()] or ["nothing"])[-1]
            raise AsofError(f"prepare.py of {self.example.folder.name} failed; it said: {last}")
        start, end = (datetime.fromisoformat(moment) for moment in self.span)
        for table, column in self.example.known.items():
            rows, known = pl.read_parquet(folder / f"{table}.parquet"), pl.col(column)
            parts = {"history": known < start, "live": (known >= start) & (known < end)}
            for part, chosen in parts.items():
                self.file(table, part).parent.mkdir(exist_ok=True)
                rows.filter(chosen).write_parquet(self.file(table, part))
            self.outcome.rows += sum(_height(self.file(table, part)) for part in parts)
        step.happened = f"{self.outcome.rows:,} rows in {len(self.example.known)} tables"

    def apply(self, step: DemoStep) -> None:
        """Register the definitions."""
        step.happened = f"{len(self.workspace.asof('apply')['changes'])} changes"

    def ingest(self, step: DemoStep) -> None:
        """Ingest the history; no row may go to quarantine."""
        told = []
        for table in self.example.known:
            answer = self.workspace.asof("ingest", table, str(self.file(table, "history")))
            told.append(f"{table} {answer['rows_added']:,}")
            self.expect(step, not answer["quarantined"], f"{answer['quarantined']} rows of {table} are in quarantine")
        step.happened = ", ".join(told)

    def dataset(self, step: DemoStep) -> None:
        """Make a dataset of the latest rows of the history, and make it again."""
        folder = self.workspace.folder
        rows = pl.read_parquet(self.file(self.example.scored, "history")).sort(self.example.at).tail(SAMPLE)
        rows.write_parquet(folder / "entities.parquet")
        made = ("--entities", str(folder / "entities.parquet"), "--at", self.example.at)
        answer = self.workspace.asof("dataset", self.example.service, *made, "-o", str(folder / "dataset.parquet"))
        again = self.workspace.asof(
            "dataset", "--like", str(folder / "dataset.parquet"), "-o", str(folder / "again.parquet")
        )
        step.happened = f"{answer['rows']:,} rows x {answer['features']} features, made again"
        self.expect(step, again["exit_code"] == 0, "the dataset that was made again differs")

    def train(self, step: DemoStep) -> None:
        """Train the model on the history."""
        answer = self.workspace.asof("train", self.example.model)
        if not answer["bundle"]:
            said = [
                *(f"below its threshold: {m}" for m in answer["missed"]),
                *(leak["line"] for leak in answer["leaks"]),
            ]
            raise AsofError(f"`asof train {self.example.model}` wrote no bundle: {'; '.join(said)}")
        split, figures = answer["split"], ", ".join(f"{n} {f['value']:.3f}" for n, f in answer["metrics"].items())
        step.happened = f"learned from {split['train_rows']:,} rows, judged on {split['test_rows']:,}: {figures}"

    def build(self, step: DemoStep) -> None:
        """Build the service."""
        step.happened = str(self.workspace.asof("build", self.example.model)["tag"])

    def materialize(self, step: DemoStep) -> None:
        """Fill the online store with what was known when the span starts."""
        views = self.workspace.asof("materialize", "--to", self.span[0])["views"]
        step.happened = f"{', '.join(v['view'] for v in views)}, as known on {self.span[0]}"

    def replay(self, step: DemoStep, address: str) -> None:
        """Replay the rest from its files; every row of them must be fed, every row to score answered."""
        files = [("--data", str(self.file(table, "live"))) for table in self.example.known]
        answer = self.workspace.asof(
            "replay", self.example.model, "--from", self.span[0], "--to", self.span[1], "--url", address,
            *(text for pair in files for text in pair),
        )  # fmt: skip
        self.outcome.predictions, self.outcome.fed = answer["answered"], answer["pushed"]
        latency = ", ".join(f"{name} {value:.1f} ms" for name, value in answer["latency_ms"].items())
        step.happened = (
            f"{answer['answered']:,} requests answered, {answer['rows_per_second']:,.0f} a second; {latency}"
        )
        self.expect(step, answer["answered"] > 0, "nothing was scored")
        for source, reason in answer["not_fed"].items():
            self.expect(step, fine=False, problem=f"source {source} was not fed: {reason}")
        for table in self.example.known:
            fed, rows = answer["pushed"].get(table, 0), _height(self.file(table, "live"))
            self.expect(step, fed == rows and rows > 0, f"{fed} of the {rows} rows of {table} were fed")

    def skew(self, step: DemoStep) -> None:
        """Recompute every served value; each must be compared, and none may differ."""
        answer = self.workspace.asof("skew", self.example.model)
        self.outcome.compared = sum(feature["recomputed"] for feature in answer["features"])
        self.outcome.mismatches = answer["mismatches"]
        step.happened = str(answer["summary"])
        self.expect(step, answer["mismatches"] == 0, f"{answer['mismatches']} of {self.outcome.compared} values differ")
        whole = answer["rows"] == self.outcome.predictions and all(
            feature["recomputed"] == answer["rows"] for feature in answer["features"]
        )
        self.expect(step, whole and answer["rows"] > 0, "not every served value was compared")

    def profile(self, step: DemoStep) -> None:
        """Profile what was served."""
        profiles = self.workspace.asof("profile", self.example.model)["profiles"]
        step.happened = f"{len(profiles)} whylogs profiles of {sum(p['rows'] for p in profiles):,} predictions"
        self.expect(step, bool(profiles), "nothing was profiled")

    def drift(self, step: DemoStep) -> None:
        """Any verdict will do, because the world may have changed; but there must be one."""
        answer = self.workspace.asof("drift", self.example.model)
        verdicts = [column["verdict"] for column in answer["columns"]]
        self.outcome.drift = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        step.happened = str(answer["summary"])
        self.expect(step, any(v != "too few rows" for v in verdicts), "no column was judged")

    def performance(self, step: DemoStep) -> None:
        """Compare the metrics with those at training; any verdict will do, but there must be one."""
        answer = self.workspace.asof("performance", self.example.model)
        self.outcome.performance = {figure["name"]: figure["value"] for figure in answer["figures"]}
        step.happened = str(answer["summary"])
        self.expect(step, bool(answer["figures"]), "no metric was judged")


def _height(file: Path) -> int:
    return int(pl.scan_parquet(file).select(pl.len()).collect().item())
