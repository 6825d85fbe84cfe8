"""Writes values from the tables into the online store, through Feast's own materialization."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asof.console import on_terminal, progress, progress_shown
from asof.contract import View
from asof.errors import NotFoundError, UsageError
from asof.feast.calls import feast_call
from asof.instants import format_moment, from_micros
from asof.rendering import Rendered, ResultTable
from asof.repo import Repo

if TYPE_CHECKING:
    from asof.feast.compute_engine import KnownLater


@dataclass(frozen=True)
class MaterializedView:
    """What was materialized of one view.

    Attributes:
        view: Its name.
        start: First event time, microseconds.
        end: Last event time, microseconds.
        seconds: How long it took.
        known_later: The rows that happened up to ``end`` and became known after it; None where there are none.
    """

    view: str
    start: int
    end: int
    seconds: float
    known_later: KnownLater | None


@dataclass(frozen=True, repr=False)
class Materialized(Rendered):
    """What was materialized of each view."""

    views: tuple[MaterializedView, ...]

    def parts(self) -> Iterator[str | ResultTable]:
        """A line for each view, and what was left out."""
        rows = [(v.view, format_moment(v.start), format_moment(v.end), v.seconds) for v in self.views]
        yield ResultTable(("view", "from", "to", "seconds"), rows)
        for later in (v.known_later for v in self.views):
            if later:
                yield f"{later}; to write them: asof materialize {later.view} --to {format_moment(later.end)}"

    def to_dict(self) -> dict[str, Any]:
        """The views as JSON-ready data."""
        views = [
            {
                "view": v.view,
                "from": format_moment(v.start),
                "to": format_moment(v.end),
                "seconds": v.seconds,
                "known_later": v.known_later.rows if v.known_later else 0,
            }
            for v in self.views
        ]
        return {"views": views}


def materialize(
    repo: Repo, names: Sequence[str] = (), *, start: int | None = None, end: int | None = None
) -> Materialized:
    """Write values from the tables into the online store.

    Args:
        repo: The feature repo.
        names: Views; by default all with ``online=True``.
        start: First event time, microseconds; by default the earliest that a read at ``end`` or later can use.
        end: Last event time; by default now.

    Raises:
        NotFoundError: There is no such view.
        UsageError: There is nothing to materialize, or the span is empty.
    """
    from asof.feast.apply import fill_caches

    last = time.time_ns() // 1_000 if end is None else end
    with feast_call("reading the registry", repo=repo.path):
        views = _chosen(repo.views(), names)
    spans = [(view, _start(view, last) if start is None else start) for view in views]
    if wrong := [first for _, first in spans if first > last]:
        raise UsageError(
            f"--from {format_moment(wrong[0])} is after --to {format_moment(last)}; expected an earlier time"
        )
    done = []
    with (
        progress_shown(not on_terminal()),
        progress("materializing views", len(spans)) as line,
    ):  # Feast draws its own bars
        for view, first in spans:
            done.append(_materialize(repo, view, first, last))
            line.advance()
    fill_caches(repo)  # Feast notes every materialization in the registry, which invalidates them
    return Materialized(tuple(done))


def _materialize(repo: Repo, view: View, start: int, end: int) -> MaterializedView:
    from asof.feast.compute_engine import Interval, known_later, without_known_later_warning

    began = time.monotonic()
    with feast_call(f"materializing {view.name}", repo=repo.path), without_known_later_warning():
        repo.store.materialize(from_micros(start), from_micros(end), feature_views=[view.name])
    seconds = round(time.monotonic() - began, 3)
    return MaterializedView(view.name, start, end, seconds, known_later(view, repo.path, Interval(start, end)) or None)


def _chosen(views: Mapping[str, View], names: Sequence[str]) -> list[View]:
    for name in names:
        if name not in views:
            raise NotFoundError("feature view", name, views)
    found = [view for name, view in sorted(views.items()) if (name in names if names else view.online)]
    if not found:
        held = (
            f"{len(views)} feature views are applied, all with online=False" if views else "no feature view is applied"
        )
        raise UsageError(
            f"{held}, so there is nothing to materialize; expected one with online=True: declare it and run `asof apply`"
        )
    return found


def _start(view: View, end: int) -> int:
    """The earliest event time that a read at ``end`` or later can see."""
    if view.windowed:
        return max(0, end - view.horizon)
    return max(0, end - view.ttl) if view.ttl else 0
