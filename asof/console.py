"""Output of commands: results as text or JSON, text tables, and progress lines.

Standard output carries only the result; progress and errors go to standard error. With ``--json`` the result is one JSON
document. Progress is shown only on a terminal, and only for work that takes longer than a second.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click

SHOW_AFTER = 1.0
"""Seconds that work must take before its progress is shown."""


@dataclass(slots=True)
class ProgressLine:
    """A progress line on standard error; prints nothing if that is not a terminal.

    Args:
        label: Name of the work.
        total: Number of steps; None if it is unknown.
    """

    label: str
    total: int | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    drawn: float = 0.0

    def advance(self, steps: int = 1) -> None:
        """Record ``steps`` more steps as done."""
        self.done += steps
        now = time.monotonic()
        if sys.stderr.isatty() and now - self.started > SHOW_AFTER and now - self.drawn > 0.1:
            self.drawn = now
            sys.stderr.write(f"\r\033[K{self.label}: {self._state()}")
            sys.stderr.flush()

    def close(self) -> None:
        """Erase the line."""
        if self.drawn:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def _state(self) -> str:
        elapsed = time.monotonic() - self.started
        if not self.total:
            return f"{self.done:,} in {elapsed:.0f} s"
        share = min(1.0, self.done / self.total)
        bar = ("#" * int(24 * share)).ljust(24, "-")
        left = elapsed / share * (1 - share) if share else 0.0
        return f"[{bar}] {self.done:,}/{self.total:,}, about {left:.0f} s left"


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[ProgressLine]:
    """A :class:`ProgressLine` that is erased at the end of the block, also after an error."""
    line = ProgressLine(label, total)
    try:
        yield line
    finally:
        line.close()


def emit(payload: Mapping[str, Any], text: str) -> None:
    """Print ``payload`` as JSON if the command was called with ``--json``, else ``text``."""
    context = click.get_current_context(silent=True)
    as_json = bool(context and context.find_root().obj and context.find_root().obj.get("json"))
    click.echo(json.dumps(payload, default=str, indent=1) if as_json else text)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as aligned text columns; numbers are right-aligned, floats have four significant digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(h), *(len(r[i][0]) for r in cells)]) for i, h in enumerate(header)]
    numeric = [bool(cells) and all(r[i][1] for r in cells) for i in range(len(header))]
    lines = [
        "  ".join(h.rjust(w) if n else h.ljust(w) for h, w, n in zip(header, widths, numeric, strict=True)).rstrip()
    ]
    lines.append("  ".join("-" * w for w in widths))
    lines.extend(
        "  ".join(c.rjust(w) if n else c.ljust(w) for (c, _), w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def _cell(value: Any) -> tuple[str, bool]:
    if isinstance(value, bool) or value is None:
        return ("-" if value is None else "yes" if value else "no"), False
    if isinstance(value, int):
        return f"{value:,}", True
    if isinstance(value, float):
        return f"{value:.4g}", True
    return str(value), False
