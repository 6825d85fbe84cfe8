"""A column in training and in serving as one inline SVG: grouped bars over the frozen cells, no script, colours from the page's CSS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from asof.statistics import histograms

WIDTH, HEIGHT = 760, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 12, 34
"""Margins in pixels: the left one holds the shares, the lower one the labels."""

LETTER = 6.4
"""Approximate width of a letter of a label in pixels."""

LONGEST = 16
"""Letters of a label that are shown; the tooltip shows all."""


_EXTRA = {"numeric": ("below", "above", "missing"), "categorical": ("other", "missing")}

MISSING = "(missing)"
GAP = 1
"""Slots between the values and the missing cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as drawn.

    Attributes:
        label: Full label.
        tick: Text below the cell; may be empty.
        centred: Whether the tick belongs to the cell's middle; else to its left edge, being its lower bound.
        before: Share of the training rows.
        after: Share of the serving rows.
    """

    label: str
    tick: str
    centred: bool
    before: float
    after: float


def cells(reference: Mapping[str, Any], serving: Mapping[str, Any]) -> list[Cell]:
    """The cells to draw, in reading order: those with a row of either sample, missing last."""
    left, right = histograms.cells(reference), histograms.cells(serving)
    before, after = left / max(left.sum(), 1), right / max(right.sum(), 1)
    texts = histograms.labels(reference)
    order = _order(reference, before, after)
    return [
        Cell(texts[i], *_tick(reference, texts, i), float(before[i]), float(after[i]))
        for i in order
        if before[i] or after[i]
    ]


def chart(name: str, reference: Mapping[str, Any], serving: Mapping[str, Any], identity: str) -> str:
    """The SVG text.

    Args:
        name: Name of the column, for the title.
        reference: Its histogram at training.
        serving: Its histogram in the window.
        identity: What makes the ids of the SVG's parts unique in the page; letters and digits.
    """
    drawn = cells(reference, serving)
    top = max([cell.before for cell in drawn] + [cell.after for cell in drawn] + [0.01])
    step = _step(top)
    ceiling = step * np.ceil(top / step)
    parts = [*_grid(step, ceiling), *_bars(drawn, ceiling), *_ticks(drawn)]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t{identity} d{identity}">'
        f'<title id="t{identity}">{escape(name)}: share of rows by value, training and serving</title>'
        f'<desc id="d{identity}">{escape(_description(drawn))}</desc>{"".join(parts)}</svg>'
    )


def _order(reference: Mapping[str, Any], before: Any, after: Any) -> list[int]:
    size = len(reference["counts"])
    if reference["kind"] == "numeric":
        return [size, *range(size), size + 1, size + 2]
    frequent = sorted(range(size), key=lambda i: (-max(before[i], after[i]), i))
    return [*frequent, size, size + 1]


def _tick(reference: Mapping[str, Any], texts: list[str], position: int) -> tuple[str, bool]:
    size = len(reference["counts"])
    if position >= size:
        return _EXTRA[reference["kind"]][position - size], True
    if reference["kind"] == "numeric" and reference["points"][position] is None:
        return texts[position].split(" to ")[0], False
    text = texts[position]
    return (text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"), True


def _step(top: float) -> float:
    """A round distance between lines that gives two to five of them."""
    scale = 10.0 ** np.floor(np.log10(top))
    return float(next(step * scale for step in (0.2, 0.25, 0.5, 1.0, 2.0) if top / (step * scale) <= 5))


def _grid(step: float, ceiling: float) -> Iterator[str]:
    digits = 0 if step * 100 == round(step * 100) else 1 if step * 1000 == round(step * 1000) else 2
    for line in range(round(ceiling / step) + 1):
        height = _y(line * step, ceiling)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{line * step:.{digits}%}</text>'


def _bars(drawn: list[Cell], ceiling: float) -> Iterator[str]:
    slot = _slot(drawn)
    width = min(0.42 * slot, 40)
    for position, cell in enumerate(drawn):
        middle = LEFT + (_place(drawn, position) + 0.5) * slot
        tip = escape(f"{cell.label}: training {cell.before:.2%}, serving {cell.after:.2%}")
        yield f'<g><title>{tip}</title><rect class="hit" x="{middle - slot / 2:.1f}" y="{TOP}" width="{slot:.1f}" height="{_base() - TOP}"/>'
        yield _bar("training", middle - width, width, cell.before, ceiling)
        yield _bar("serving", middle, width, cell.after, ceiling) + "</g>"


def _bar(kind: str, x: float, width: float, share: float, ceiling: float) -> str:
    y = _y(share, ceiling)
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_base() - y:.1f}"/>'


def _ticks(drawn: list[Cell]) -> Iterator[str]:
    """Labels from left to right, each only where it does not touch the one before; words such as missing come first."""
    slot = _slot(drawn)
    taken: list[tuple[float, float]] = []
    ranked = sorted(range(len(drawn)), key=lambda i: (drawn[i].label != MISSING, not drawn[i].tick.isalpha(), i))
    for position in ranked:
        cell = drawn[position]
        x = LEFT + (_place(drawn, position) + (0.5 if cell.centred else 0.0)) * slot
        half = max(len(cell.tick) * LETTER / 2, 4)
        x = min(max(x, half), WIDTH - half)
        if cell.tick and all(abs(x - other) > half + reach + 5 for other, reach in taken):
            taken.append((x, half))
            yield f'<text class="tick" x="{x:.1f}" y="{_base() + 18}" text-anchor="middle">{escape(cell.tick)}</text>'


def _description(drawn: list[Cell]) -> str:
    moved = sorted(drawn, key=lambda cell: -abs(cell.after - cell.before))[:3]
    return "; ".join(f"{cell.label}: training {cell.before:.1%}, serving {cell.after:.1%}" for cell in moved)


def _slot(drawn: list[Cell]) -> float:
    return (WIDTH - LEFT - RIGHT) / max(_place(drawn, len(drawn) - 1) + 1, 1)


def _place(drawn: list[Cell], position: int) -> int:
    """The slot of a cell: missing values stand apart."""
    return position + (GAP if position > 0 and drawn[position].label == MISSING else 0)


def _base() -> int:
    return HEIGHT - BOTTOM


def _y(share: float, ceiling: float) -> float:
    return float(_base() - (_base() - TOP) * share / ceiling)
