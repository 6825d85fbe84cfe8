"""``python -m benchmarks commands``: seconds of every command on a small repo, from the start of its process to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import numpy as np
import polars as pl

from asof.console import table

HERE = Path(__file__).resolve().parents[2]
DAYS, A_DAY = 40, 125
START = datetime(2026, 3, 1, tzinfo=UTC)
LIVE = (START + timedelta(days=DAYS)).date().isoformat()
END = (START + timedelta(days=DAYS + 3)).date().isoformat()

STEPS = (
    "plan", "apply", "ingest orders history.parquet", "ingest orders_labels history.parquet", "tables", "plan",
    "dataset shop_v1 --entities questions.parquet --at placed_at -o made.parquet", "train shop", "models",
    f"materialize --to {LIVE}", f"get shop_v1 seller_id=3 weight=2 --at {LIVE}", "build shop", "serve shop", "doctor",
    f"replay shop --from {LIVE} --to {END} --data live.parquet", "profile shop", "drift shop", "skew shop", "performance shop",
    "drill shop --scale weight=1.5 -o drill", "redis stop",
)  # fmt: skip
"""What is run, in this order. ``serve`` is timed until it is ready, and stopped before the last step."""


def orders() -> pl.DataFrame:
    """5,000 orders of 40 sellers in 40 days, and three days more."""
    random, n = np.random.default_rng(5), (DAYS + 3) * A_DAY
    weight = np.round(random.gamma(3.0, 2.0, n), 2)
    placed = [START + timedelta(minutes=int(m)) for m in np.sort(random.integers(0, (DAYS + 3) * 1440, n))]
    return pl.DataFrame(
        {
            "order_id": np.arange(n),
            "seller_id": random.integers(1, 41, n),
            "weight": weight,
            "placed_at": placed,
            "delivered_at": [moment + timedelta(hours=5) for moment in placed],
            "late": (weight + random.normal(0, 2, n) > 8).astype(np.int64),
        }
    )


def measured(tree: Path, folder: Path) -> dict[str, float]:
    """Seconds of each step in ``folder``, with the code of ``tree``."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "ASOF_REPO": str(folder / "shop")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    rows = orders()
    live = pl.col("placed_at") >= START + timedelta(days=DAYS)
    rows.filter(~live).write_parquet(folder / "history.parquet")
    rows.filter(live).write_parquet(folder / "live.parquet")
    rows.filter(live).select("seller_id", "weight", "placed_at").head(10).write_parquet(folder / "questions.parquet")
    made = {**environment, "PYTHONPATH": str(HERE)}
    subprocess.run(
        [sys.executable, "-m", "asof", "init", "history.parquet", "--into", "shop", "--yes"], cwd=folder, env=made, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for file in [*folder.rglob("*.py")]:
        file.write_text(file.read_text().replace("history", "orders"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found: dict[str, float] = {}
    for step in STEPS:
        name = step.partition(" ")[0]
        if name == "serve":
            server, seconds = _served(folder, environment, step, port)
        else:
            if name == "redis":
                server.send_signal(signal.SIGTERM)
                server.wait(60)
            extra = ["--url", f"http://127.0.0.1:{port}"] if name == "replay" else []
            seconds = _timed(folder, environment, [*step.split(), *extra])
        found[name] = seconds  # of a step that comes twice, the second counts
    return found


def _timed(folder: Path, environment: dict[str, str], arguments: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "asof", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 1}:  # 1: a check said no
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return time.perf_counter() - started


def _served(folder: Path, environment: dict[str, str], step: str, port: int) -> tuple[subprocess.Popen[bytes], float]:
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "asof", *step.split(), "--port", str(port)], cwd=folder, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return server, time.perf_counter() - started
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{step}: exit code {server.returncode}")


@click.command(help=__doc__)
@click.option(
    "--tree",
    "trees",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another checkout to measure beside this one.",
)
@click.option("--repeats", default=3, show_default=True, help="Runs of each checkout, in turn.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def main(trees: tuple[Path, ...], repeats: int, as_json: bool) -> None:
    """Print the median of each command."""
    every = [*(tree.resolve() for tree in trees), HERE]
    seconds: dict[Path, dict[str, list[float]]] = {tree: defaultdict(list) for tree in every}
    for run in range(repeats + 1):
        for tree in every:
            with tempfile.TemporaryDirectory(prefix="asof-commands-") as folder:
                for name, value in measured(tree, Path(folder)).items():
                    if run:  # the first run fills the caches of the disk and of Python
                        seconds[tree][name].append(value)
    medians = {str(tree): {name: statistics.median(v) for name, v in found.items()} for tree, found in seconds.items()}
    if as_json:
        click.echo(json.dumps(medians, indent=1))
    else:
        names = sorted(medians[str(HERE)])
        click.echo(table(("command", *medians), [(n, *(found[n] for found in medians.values())) for n in names]))


main()
