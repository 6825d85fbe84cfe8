"""Output of commands: results as text or JSON, text tables, and progress.

Standard output carries only the result; progress and errors go to standard error. With ``--json`` the result is one JSON
document. Progress is shown on a terminal or in a notebook, and only for work that takes longer than a second.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from html import escape
from typing import Any

import click

from asof.rendering import Rendered, ResultTable

SHOW_AFTER = 1.0
"""Seconds that work must take before its progress is shown."""


_SHOWN: ContextVar[bool] = ContextVar("progress is shown", default=True)


class TerminalLine:
    """Draws progress on one line of standard error."""

    def draw(self, text: str, share: float | None) -> None:
        """Replace the line."""
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()

    def close(self, text: str) -> None:
        """Erase the line."""
        self.draw("", None)


class NotebookBar:
    """Draws progress as one output of a notebook's cell."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, text: str, share: float | None) -> None:
        """Replace the bar."""
        amount = "" if share is None else f' value="{share:.3f}"'
        self._show({"text/plain": text, "text/html": f"<progress{amount}></progress> {escape(text)}"})

    def close(self, text: str) -> None:
        """Replace the bar by ``text``."""
        self._show({"text/plain": text, "text/html": f"<small>{escape(text)}</small>"})

    def _show(self, bundle: dict[str, str]) -> None:
        display = sys.modules["IPython"].display.display
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _screen() -> TerminalLine | NotebookBar | None:
    """Where progress is shown; None where nobody would see it."""
    if not _SHOWN.get():
        return None
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is not None:
        return NotebookBar()
    return TerminalLine() if on_terminal() else None


def on_terminal() -> bool:
    """Whether progress is shown on a terminal, where libraries may draw their own."""
    return _SHOWN.get() and sys.stderr.isatty()


@dataclass(slots=True)
class ProgressLine:
    """Progress of work that takes longer than a second: a line on standard error if that is a terminal, a bar in a notebook.

    Args:
        label: Name of the work.
        total: Number of steps; None if it is unknown.
        screen: Where it is drawn; None for nowhere.
    """

    label: str
    total: int | None = None
    screen: TerminalLine | NotebookBar | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    drawn: float = 0.0

    def advance(self, steps: int = 1) -> None:
        """Record ``steps`` more steps as done."""
        self.done += steps
        now = time.monotonic()
        if self.screen is not None and now - self.started > SHOW_AFTER and now - self.drawn > 0.1:
            self.drawn = now
            self.screen.draw(f"{self.label}: {self._state()}", self._share())

    def say(self, step: str) -> None:
        """Show the step that begins, of work whose number of steps is unknown."""
        if self.screen is not None and time.monotonic() - self.started > SHOW_AFTER:
            self.drawn = time.monotonic()
            self.screen.draw(f"{step} ...", None)

    def close(self) -> None:
        """Erase the line; a notebook keeps how long it took."""
        if self.screen is not None and self.drawn:
            self.screen.close(f"{self.label}: {time.monotonic() - self.started:.0f} s")

    def _share(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total else None

    def _state(self) -> str:
        elapsed, share = time.monotonic() - self.started, self._share()
        if share is None:
            return f"{self.done:,} in {elapsed:.0f} s"
        bar = ("#" * int(24 * share)).ljust(24, "-")
        left = elapsed / share * (1 - share) if share else 0.0
        return f"[{bar}] {self.done:,}/{self.total:,}, about {left:.0f} s left"


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[ProgressLine]:
    """A :class:`ProgressLine` that is closed at the end of the block, also after an error."""
    line = ProgressLine(label, total, _screen())
    try:
        yield line
    finally:
        line.close()


@contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Shows no progress during the block if ``shown`` is false."""
    token = _SHOWN.set(shown and _SHOWN.get())
    try:
        yield
    finally:
        _SHOWN.reset(token)


def emit(payload: Mapping[str, Any], text: str) -> None:
    """Print ``payload`` as JSON if the command was called with ``--json``, else ``text``."""
    context = click.get_current_context(silent=True)
    as_json = bool(context and context.find_root().obj and context.find_root().obj.get("json"))
    click.echo(json.dumps(payload, default=str, indent=1) if as_json else text)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as aligned text columns."""
    return str(ResultTable(header, rows))


def show(ctx: click.Context, result: Rendered) -> None:
    """Print a result and end the command with its exit code."""
    emit(result.to_dict(), result.to_text())
    ctx.exit(result.exit_code)
