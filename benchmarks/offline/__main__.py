"""``python -m benchmarks.offline``: the offline store against what one would otherwise use."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from asof.console import table
from benchmarks.offline.comparison import GROWTH_HEADER, HEADER, compare, growth
from benchmarks.offline.shapes import SHAPES

HAND_WRITTEN = ("duckdb_asof", "polars_asof")
PEERS = {
    "easy": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "skewed": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "hot": ("asof_engine", *HAND_WRITTEN, "asof_feast"),
    "hot_small": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "narrow": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "wide": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "small": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "warm": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "warm_small": ("asof_engine", *HAND_WRITTEN, "asof_feast", "stock_feast"),
    "late": ("asof_engine", "asof_unaware"),
    "huge": ("asof_streaming",),
    "windows": ("asof_engine", "duckdb_windows", "polars_rolling", "pandas_rolling"),
    "late_windows": ("asof_engine", "duckdb_late_windows"),
}
"""The sides of each shape; ours comes first. ``huge`` (3 GB of data) runs only when it is named.

Stock Feast pairs every question of the hot key with every row of it: it takes part at the size that it finishes, ``hot_small``.
"""

FEW = 100
"""Shapes that ask with so few rows are not made smaller."""


@click.command(help=__doc__)
@click.option(
    "--shape", "shapes", multiple=True, type=click.Choice([*PEERS, "growth"]), help="Only this shape; may be repeated."
)
@click.option("--side", "sides", multiple=True, help="Only these sides, beside ours.")
@click.option("--quick", is_flag=True, help="A tenth of the rows, once.")
@click.option("--repeats", default=5, show_default=True, help="Runs of each side.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path(tempfile.gettempdir()) / "asof-bench",
    show_default=True,
    help="Where data is made.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def main(shapes: tuple[str, ...], sides: tuple[str, ...], quick: bool, repeats: int, data: Path, as_json: bool) -> None:
    """Compare, and print ratios: below 1, ours is faster or smaller."""
    chosen, factor, repeats = (
        shapes or (*(p for p in PEERS if p != "huge"), "growth"),
        0.1 if quick else 1.0,
        1 if quick else repeats,
    )
    found, grown = [], []
    for name in chosen:
        if name == "growth":
            grown = [
                r for s in ("easy", "windows") for r in growth(SHAPES[s].scaled(factor), "asof_engine", data, repeats)
            ]
            continue
        picked = [s for s in PEERS[name] if not sides or s in sides or s == PEERS[name][0]]
        found.append(
            compare(SHAPES[name] if SHAPES[name].asked <= FEW else SHAPES[name].scaled(factor), picked, data, repeats)
        )
        if not as_json:
            click.echo(table(HEADER, found[-1].rows()) + "\n")
    if as_json:
        growths = [dict(zip(("shape", "rows", "seconds", "spread", "per_n_log_n"), r, strict=True)) for r in grown]
        click.echo(json.dumps({"shapes": [c.to_dict() for c in found], "growth": growths}, indent=1))
    elif grown:
        click.echo(table(GROWTH_HEADER, grown))


if __name__ == "__main__":
    main()
