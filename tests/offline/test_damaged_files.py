"""Bytes of a source's file are changed at random: every reader answers, or raises an error of asof that names the source."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from asof.contract import Aggregation, View
from asof.errors import AsofError, SettingsError, SourceError
from asof.feast import compute_engine
from asof.offline import pull, retrieve
from asof.offline.duckdb_engine import EngineSettings, asking, batches
from asof.offline.out_of_core import retrieve_to
from asof.tables import reading
from tests.offline.conftest import DAY, contract, moments, view

ROWS = 3_000
SETTINGS = EngineSettings()
PLAIN = view(features={"x": "float64", "s": "string", "l": "array(int64)"}, created="kt")
WINDOWED = view(features={"mean": "float64"}, created="kt", windows=[Aggregation("mean", "x", "mean", DAY)])


class _Nowhere:
    """A writer that keeps nothing."""

    def materializing(self, *_: object) -> None:
        pass

    def write(self, _view: View, table: pa.Table) -> int:
        return table.num_rows


def _asked(rows: int) -> pa.Table:
    return pa.table({"k": list(range(rows)), "at": moments(*[5] * rows)})


READERS: dict[str, Callable[[Path], Any]] = {
    "few rows": lambda d: retrieve(contract(PLAIN), _asked(2), at="at", repo=d),
    "many rows": lambda d: retrieve(contract(PLAIN), _asked(ROWS), at="at", repo=d),
    "windows": lambda d: retrieve(contract(WINDOWED), _asked(ROWS), at="at", repo=d),
    "out of core": lambda d: retrieve_to(
        d / "out.parquet", contract(PLAIN), _asked(ROWS), at="at", repo=d, settings=EngineSettings("20MB")
    ),
    "latest": lambda d: pull.latest(
        PLAIN.source, d, ["k"], ["k", "x", "s", "l", "ts"], pull.Span(None, None), SETTINGS
    ),
    "everything": lambda d: pull.everything(PLAIN.source, d, ["k", "x", "s", "ts"], pull.Span(None, None), SETTINGS),
    "moments": lambda d: pull.moments(contract(PLAIN), d, pull.Span(None, None), "at", SETTINGS),
    "materialize": lambda d: compute_engine.materialize(PLAIN, _Nowhere(), d, compute_engine.Interval(0, 2 * 10**15)),  # type: ignore[arg-type]
    "materialize windows": lambda d: compute_engine.materialize(
        WINDOWED, _Nowhere(), d, compute_engine.Interval(0, 2 * 10**15)
    ),  # type: ignore[arg-type]
    "known later": lambda d: compute_engine.known_later(PLAIN, d, compute_engine.Interval(0, 10**15)),
    "ingest": lambda d: reading.read(d / "rows.parquet", []),
}


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_no_reader_raises_another_librarys_exception(tmp_path: Path, compression: str) -> None:
    """Footers, headers of pages and values are hit; some files stay readable."""
    times = moments(*np.linspace(0, 4, ROWS))
    columns = {"k": list(range(ROWS)), "ts": times, "kt": times, "x": np.random.default_rng(0).random(ROWS)}
    columns |= {"s": [f"text {i % 50}" for i in range(ROWS)], "l": [[1, 2]] * ROWS}
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), file, compression=compression, row_group_size=1_000)
    sound, chance = file.read_bytes(), random.Random(7)
    for reader in READERS.values():
        reader(tmp_path)
    refused: dict[str, set[str]] = {name: set() for name in READERS}
    for _ in range(25):
        content = bytearray(sound)
        for _ in range(chance.choice([1, 5, 50])):
            content[chance.randrange(4, len(content))] = chance.randrange(256)
        file.write_bytes(content)
        for name, reader in READERS.items():
            try:
                reader(tmp_path)
            except AsofError as error:
                refused[name].add(str(error))

    assert all(refused.values())
    assert [said for told in refused.values() for said in told if "rows" not in said] == []


@pytest.mark.parametrize("at", [1.5, 3])
def test_a_data_file_of_another_type_than_the_table_is_refused(tmp_path: Path, at: float) -> None:
    """A window over its texts would aggregate codes of the texts."""
    table = pa.table({"k": [1, 1], "ts": moments(0, 1), "x": [1.0, 2.0]})
    write_deltalake(str(tmp_path / "t"), table)
    (file,) = (tmp_path / "t").glob("*.parquet")
    write_deltalake(str(tmp_path / "t"), pa.table({"k": [1], "ts": moments(2), "x": [3.0]}), mode="append")
    pq.write_table(table.set_column(2, "x", pa.array(["1.5", "2.5"])), file)
    windowed = view(
        features={"m": "float64"}, path="t", format="delta", windows=[Aggregation("m", "x", "mean", 9 * DAY)]
    )
    asked = pa.table({"k": [1], "at": moments(at)})

    with pytest.raises(SourceError, match="column 'x' is double, but a data file holds string"):
        retrieve(contract(windowed), asked, at="at", repo=tmp_path)
    with pytest.raises(SourceError, match="column 'x' is double, but a data file holds string"):
        compute_engine.materialize(windowed, _Nowhere(), tmp_path, compute_engine.Interval(0, 2 * 10**15))  # type: ignore[arg-type]


def test_event_times_beyond_the_year_9999_are_read(tmp_path: Path) -> None:
    """They are in no answer, and do not keep others from being read."""
    times = pa.array([0, 300_000_000_000_000_000], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"k": [1, 1], "ts": times, "x": [1, 2]}), tmp_path / "rows.parquet")
    asked = pa.table({"k": [1], "at": pa.array([datetime(2020, 1, 1, tzinfo=UTC)])})

    assert retrieve(contract(view(features={"x": "int64"})), asked, at="at", repo=tmp_path)["x"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ("SELECT missing FROM range(3)", SourceError, r"the rows cannot be read \(Binder Error.*`asof doctor`"),
        ("SELECT CAST('x' AS INTEGER)", SourceError, r"the rows cannot be read \(Conversion Error"),
        ("SELECT * FROM read_parquet('nowhere.parquet')", SourceError, r"No files found.*restore them"),
        ("SELECT error('No space left on device')", Exception, r"disk to spill to is full.*temp_directory"),
        ("SELECT list(range) FROM range(100000000)", SettingsError, r"within the memory limit.*raise memory_limit"),
    ],
)
def test_duckdbs_reason_is_kept_in_a_sentence_with_advice(
    tmp_path: Path, query: str, kind: type[Exception], message: str
) -> None:
    """What was asked, DuckDB's reason, and what to do, for a whole answer and for a streamed one."""
    connection = EngineSettings("100MB", 1, str(tmp_path)).connect(tmp_path)
    connection.execute("SET max_temp_directory_size = '1MB'")
    try:
        with pytest.raises(kind, match=message), asking("the rows"):
            connection.sql(query).to_arrow_table()
    finally:
        connection.execute("RESET max_temp_directory_size")


def test_an_error_in_the_middle_of_a_stream_is_told(tmp_path: Path) -> None:
    """Arrow raises it in place of DuckDB."""
    connection = SETTINGS.connect(tmp_path)
    query = "SELECT CASE WHEN range < 500000 THEN 1 ELSE error('no such row') END AS x FROM range(1000000)"

    with pytest.raises(SourceError, match=r"source 's' cannot be read .*no such row"):
        list(batches(connection.sql(query).to_arrow_reader(1_000), "source 's'"))


ASKED = {"to_arrow_table", "to_arrow_reader", "fetchall", "fetchone", "register", "from_arrow"}
"""Methods of DuckDB that read; ``register`` and ``from_arrow`` need memory."""

ELSEWHERE = {
    "queried_table": "raises errors of its own",
    "_chosen": "called by materialize",
    "update": "Feast's writer",
}
"""Function that calls one outside of ``asking`` -> why that is right."""


def _asking(statement: ast.With) -> bool:
    return any("asking(" in ast.unparse(item.context_expr) for item in statement.items)


def _calls(node: ast.AST, inside: bool, function: str) -> Iterator[tuple[str, str, bool]]:
    """Function, method and whether ``asking`` is around it, for each call of DuckDB below ``node``."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function, inside = node.name, False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKED:
        yield function, node.func.attr, inside
    inside = inside or (isinstance(node, ast.With) and _asking(node))
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inside, function)


def test_duckdb_is_called_where_its_exceptions_are_translated(root: Path) -> None:
    """Every call that reads stands in a ``with asking(...)``."""
    modules = [
        p for folder in ("asof", "training", "serving", "monitoring") for p in sorted((root / folder).rglob("*.py"))
    ]
    using = [p for p in modules if not p.parent.is_symlink() and "duckdb" in p.read_text()]
    found = [(p.name, *call) for p in using for call in _calls(ast.parse(p.read_text()), inside=False, function="")]

    assert len(found) > 10
    assert [call for call in found if not call[3] and call[1] not in ELSEWHERE] == []
