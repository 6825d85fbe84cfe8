"""What ``asof replay`` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from asof.bundle import Bundle
from asof.console import progress
from asof.repo import Repo
from asof.serving.replay import Replay, ReplayReport, served_version
from asof.serving.replay_source import record


def replay(
    repo: Repo,
    model: str,
    start: int,
    end: int,
    *,
    data: Sequence[Path] = (),
    limit: int | None = None,
    url: str = "http://127.0.0.1:3000",
    concurrency: int = 8,
    version: str | None = None,
    again: bool = False,
    stream: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> ReplayReport:
    """Send recorded rows to the running service, in time order.

    Args:
        repo: The feature repo.
        model: Name of the model.
        start: First moment, microseconds.
        end: End of the span; this moment is not included.
        data: Files with the rows; by default the tables are read.
        limit: Most rows to replay.
        url: Address of the service.
        concurrency: Number of connections.
        version: Version that the service must serve; by default any.
        again: Also score rows that this version has already answered.
        stream: Send rows to the streams of their tables.
        warn: Called with a line about each source that cannot be fed.

    Raises:
        NotFoundError: There is no such model or version.
        ServiceError: The service cannot be reached, is not ready, or serves another version.
        SourceError: A file or a table cannot be read.
        OnlineStoreError: Redis failed.
        TableError: A table cannot be written.
    """
    bundle = Bundle.find(repo.settings.models, model, version)
    if version is None:
        bundle = Bundle.find(repo.settings.models, model, served_version(url))
    recording = record(repo, bundle, start, end, data, limit)
    for name, reason in recording.not_fed.items():
        warn(f"not fed: source {name!r}: {reason}")
    with progress(f"replaying {model}", recording.scored.rows.num_rows) as line:
        return Replay(repo, bundle, recording, url, concurrency, line.advance, stream).run(again=again)
