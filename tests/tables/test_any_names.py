"""Tables take rows whatever characters their names, columns and folders have."""

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from asof.errors import SourceError
from asof.tables import Declarations, ingest
from tests.tables import repos
from tests.tables.repos import NOW, make_repo, set_aside


def make(folder, **changes):
    """A repo with one table."""
    table = replace(repos.PAYMENTS, **changes)
    return make_repo(folder, Declarations({table.name: table}, ())), table


def rows(amount=5.0):
    return pa.table({
        "id": [1], "paid_at": [datetime(2020, 1, 1, tzinfo=UTC)], "customer": [1], "amount": [amount], "kind": ["card"],
    })  # fmt: skip


@pytest.mark.parametrize("name", ["a[x]", "a|b", "up/and/down", "..", "50%20"])
def test_rows_of_a_table_of_any_name_can_be_set_aside(tmp_path, name):
    """The quarantine has a folder for a table whose name no folder can have."""
    repo, table = make(tmp_path / "repo", name=name)

    assert ingest(repo, table.name, rows(amount=-1.0), now=NOW).rows_added == 0
    assert len(set_aside(repo, name)) == 1


def test_a_folder_that_cannot_hold_a_table_is_named(tmp_path):
    """A repo below a folder that the Delta library cannot open is refused in one line."""
    repo, table = make(tmp_path / "a[x]")

    with pytest.raises(SourceError, match=r"cannot lie below a folder with \[ or \] in its name"):
        ingest(repo, table.name, rows(), now=NOW)


def test_a_path_as_uri(tmp_path):
    """A table whose path is a file:// URI lies where the URI means."""
    folder = tmp_path / "my tables é"
    repo, table = make(tmp_path / "repo", path=folder.as_uri() + "/payments")

    ingest(repo, table.name, rows(), now=NOW)

    assert (folder / "payments" / "_delta_log").is_dir()
    assert len(list((folder / "payments").glob("*.parquet"))) == 1


def test_columns_of_any_name_tell_rows_apart(tmp_path):
    """Without an id, rows are told apart by all columns, whatever these are called."""
    repo = make_repo(tmp_path / "repo", Declarations({"readings": repos.READINGS}, ()))
    given = pa.table({
        "ts": [datetime(2020, 1, 1, tzinfo=UTC)] * 3, "sensor": [1, 1, 1], 'a "b" % é': [1, 2, 3], "__position": [1, 1, 1],
    })  # fmt: skip

    assert ingest(repo, "readings", given, now=NOW).rows_added == 3
    assert ingest(repo, "readings", given, now=NOW).rows_added == 0
