"""Results of verbs as text, as the command line prints them, and as HTML tables for notebooks.

A result lists its parts: lines of text and tables. The HTML is self-contained: no scripts, no addresses, everything escaped, and no
colours of its own, so that it is readable on a light and on a dark page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class ResultTable:
    """A table of a result; ``str`` gives aligned columns. Numbers are right-aligned, floats have four significant digits.

    Attributes:
        header: Names of the n columns.
        rows: Rows of n values.
    """

    header: Sequence[str]
    rows: Iterable[Sequence[Any]]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max([len(h), *(len(r[i][0]) for r in cells)]) for i, h in enumerate(self.header)]
        numeric = self._numeric(cells)
        lines = [[*self.header], ["-" * w for w in widths], *([c for c, _ in row] for row in cells)]
        return "\n".join(
            "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)).rstrip()
            for line in lines
        )

    def to_html(self) -> str:
        """The table in HTML."""
        cells = self._cells()
        sides = ["right" if n else "left" for n in self._numeric(cells)]
        lines = [_html_row("td", [c for c, _ in row], sides) for row in cells]
        return f"<table><thead>{_html_row('th', self.header, sides)}</thead><tbody>{''.join(lines)}</tbody></table>"

    def _cells(self) -> list[list[tuple[str, bool]]]:
        return [[_cell(value) for value in row] for row in self.rows]

    def _numeric(self, cells: list[list[tuple[str, bool]]]) -> list[bool]:
        """For each column, whether it holds numbers only."""
        return [bool(cells) and all(row[i][1] for row in cells) for i in range(len(self.header))]


class Rendered(ABC):
    """A result that prints as the command line prints it, and that notebooks show as HTML."""

    __slots__ = ()

    @abstractmethod
    def parts(self) -> Iterable[str | ResultTable]:
        """Lines of text and tables, in order; an empty line separates paragraphs."""

    @abstractmethod
    def to_dict(self) -> Mapping[str, Any]:
        """The result as JSON-ready data, as ``--json`` prints it."""

    @property
    def exit_code(self) -> int:
        """Exit code with which the command line ends on this result: 0 done, 1 a check said no, 3 something failed, 4 nothing to judge."""
        return 0

    def to_text(self) -> str:
        """The result for a terminal."""
        return "\n".join(str(part) for part in self.parts()).rstrip()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        blocks = []
        for tabular, group in groupby(self.parts(), key=lambda part: isinstance(part, ResultTable)):
            if tabular:
                blocks += [part.to_html() for part in group if isinstance(part, ResultTable)]
            else:
                text = "\n".join(str(part) for part in group).strip("\n")
                blocks.append(f'<pre style="white-space: pre-wrap">{escape(text)}</pre>' if text else "")
        return f"<div>{''.join(blocks)}</div>"


def _html_row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    filled = (
        f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{''.join(filled)}</tr>"


def _cell(value: Any) -> tuple[str, bool]:
    if isinstance(value, bool) or value is None:
        return ("-" if value is None else "yes" if value else "no"), False
    if isinstance(value, int):
        return f"{value:,}", True
    if isinstance(value, float):
        return f"{value:.4g}", True
    return str(value), False
