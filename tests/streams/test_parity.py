"""The law while events stream in, on the example and in small; ``python -m tests.streams.parity`` is the same in full."""

from __future__ import annotations

from pathlib import Path

from tests.streams.parity import streamed

ROWS = 800


def test_what_is_served_while_a_stream_feeds_both_sides_is_recomputed(tmp_path: Path) -> None:
    """Another process feeds tables and Redis while payments are scored: every value served equals the tables', seen so far."""
    found = streamed(tmp_path / "stage", None, ROWS, small=True)
    assert (found["replay"]["answered"], found["replay"]["failed"]) == (ROWS, 0)
    assert found["skew"]["exit_code"] == 0
    assert found["skew"]["mismatches"] == 0
    assert found["skew"]["recomputed"] > 20 * ROWS
    assert found["behind"] > 0
