"""The prediction writer never delays a response and loses no rows without need."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from asof import prediction_log
from asof.contract import Contract
from asof.serving.limits import Limits
from asof.serving.prediction_writer import PredictionWriter
from tests.serving.test_prediction_log import HOUR, START, entry


class Counted(Counter[str]):
    """Counts rows by outcome."""

    def __call__(self, outcome: str, rows: int) -> None:
        """Count."""
        self[outcome] += rows


def writer(folder: Path, contract: Contract, counted: Counted, **limits: float) -> PredictionWriter:
    """A started writer."""
    made = PredictionWriter(folder, contract, "m", "v1", Limits(**limits), counted)  # type: ignore[arg-type]
    made.start()
    return made


def logged(folder: Path) -> int:
    """Rows in the log."""
    return sum(t.num_rows for t in prediction_log.scan(folder, "m", START - HOUR, START + HOUR))


def eventually(check: object, seconds: float = 20.0) -> bool:
    """Whether ``check`` becomes true."""
    assert callable(check)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not check():
        time.sleep(0.02)
    return bool(check())


def test_stopping_writes_everything(contract: Contract, tmp_path: Path) -> None:
    """Rows of many threads are all in the log after the end, each once."""
    counted = Counted()
    made = writer(tmp_path, contract, counted, log_seconds=60.0)
    threads = [
        threading.Thread(target=lambda n=n: [made.put(entry(contract, [START], f"{n}-{i}")) for i in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.stop()
    found = pa.concat_tables(prediction_log.scan(tmp_path, "m", START, START + 1, ["request_id"]))
    assert sorted(found["request_id"].to_pylist()) == sorted(f"{n}-{i}" for n in range(4) for i in range(50))
    assert counted == {"written": 200}


def test_rows_are_written_after_their_time(contract: Contract, tmp_path: Path) -> None:
    """A single row is written after ``log_seconds``."""
    made = writer(tmp_path, contract, Counted(), log_seconds=0.2)
    made.put(entry(contract, [START]))
    assert eventually(lambda: logged(tmp_path) == 1)
    made.stop()


def test_a_full_batch_is_written_at_once(contract: Contract, tmp_path: Path) -> None:
    """``log_batch`` rows start a file before ``log_seconds`` have passed."""
    made = writer(tmp_path, contract, Counted(), log_seconds=3_600.0, log_batch=10)
    for _ in range(10):
        made.put(entry(contract, [START]))
    assert eventually(lambda: logged(tmp_path) == 10)
    made.stop()


def test_a_full_disk_costs_no_row_until_the_queue_is_full(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While writes fail rows wait, beyond the bound they are dropped and counted, and the rest is written later."""
    counted, full = Counted(), threading.Event()
    full.set()
    real = prediction_log.write

    def write(*arguments: object) -> object:
        if full.is_set():
            raise OSError(28, "No space left on device")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction_log, "write", write)
    made = writer(tmp_path, contract, counted, log_seconds=0.05, log_rows=5)
    accepted = [made.put(entry(contract, [START], str(i))) for i in range(8)]
    assert accepted == [True] * 5 + [False] * 3
    assert eventually(lambda: counted["failed"] > 0)
    full.clear()
    assert eventually(lambda: logged(tmp_path) == 5)
    made.stop()
    assert (counted["written"], counted["dropped"]) == (5, 3)


def test_an_end_with_a_full_disk_ends_and_counts(
    contract: Contract, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that cannot write its last rows ends all the same, and says how many were lost."""
    (tmp_path / "m").write_text("a file where the folder should be")
    counted = Counted()
    made = writer(tmp_path, contract, counted, log_seconds=0.05)
    made.put(entry(contract, [START, START]))
    made.stop()
    assert counted["dropped"] == 2
    assert "2 rows could not be written" in caplog.text


def test_an_unwritable_row_does_not_end_the_log(contract: Contract, tmp_path: Path) -> None:
    """Rows that no file can hold are dropped, and the rows after them are written."""
    counted = Counted()
    made = writer(tmp_path, contract, counted, log_seconds=0.05)
    broken = entry(contract, [START])
    made.put(type(broken)(**{**{f: getattr(broken, f) for f in broken.__slots__}, "keys": {}}))
    assert eventually(lambda: counted["dropped"] == 1)
    made.put(entry(contract, [START]))
    assert eventually(lambda: counted["written"] == 1)
    made.stop()
    assert logged(tmp_path) == 1
