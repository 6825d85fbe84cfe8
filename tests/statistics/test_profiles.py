"""whylogs profiles of Arrow data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from asof.contract import Contract, Feature
from asof.errors import SchemaError, SourceError
from asof.instants import from_micros
from asof.statistics import profiles

TYPES = {
    "amount": "float64", "count": "int64", "weekend": "bool", "country": "string",
    "opened": "unixtimestamp", "vector": "array(float32)", "raw": "bytes", "labels": "map",
}  # fmt: skip
MOMENT = 1_533_686_400_000_000


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract("p", "s", tuple(Feature(name, "v", name, dtype) for name, dtype in TYPES.items()), ())


def rows(size: int, seed: int = 0) -> pa.Table:
    """Columns of every kind, each with a missing value in every fourth row."""
    rng = np.random.default_rng(seed)
    missing = np.arange(size) % 4 == 3
    return pa.table(
        {
            "amount": pa.array(rng.gamma(2.0, 20.0, size), mask=missing),
            "count": pa.array(rng.integers(0, 9, size), mask=missing),
            "weekend": pa.array(rng.random(size) < 0.3, mask=missing),
            "country": pa.array(rng.choice(["be", "nl", "<b>"], size), mask=missing),
            "opened": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * size, pa.timestamp("us", "UTC"), mask=missing),
            "vector": pa.array([None if m else [1.0, 2.0] for m in missing], pa.list_(pa.float32())),
            "raw": pa.array([None if m else b"abc" for m in missing]),
            "labels": pa.array([None if m else {"a": 1} for m in missing]),
            "score": pa.array(rng.random(size)),
        }
    )


def counted(view: bytes) -> dict[str, tuple[int, int]]:
    """Column -> (values seen, values missing)."""
    summary = profiles.read(view).to_pandas()
    return {name: (int(row["counts/n"]), int(row["counts/null"])) for name, row in summary.iterrows()}


def test_every_kind_of_column_is_profiled_with_its_missing_values(contract: Contract) -> None:
    """A view holds the exact number of values and of missing ones for each column, whatever its type."""
    view = profiles.profile(rows(400), contract, extra={"score": "float64"}, moment=MOMENT, metadata={"model": "m"})
    assert counted(view) == {**dict.fromkeys(TYPES, (400, 100)), "score": (400, 0)}
    assert profiles.read(view).dataset_timestamp == from_micros(MOMENT)
    assert profiles.read(view).metadata["model"] == "m"
    summary = profiles.read(view).to_pandas()
    assert summary.loc["amount", "distribution/mean"] == pytest.approx(np.nanmean(rows(400)["amount"].to_pandas()))
    assert summary.loc["vector", "distribution/max"] == 2
    assert summary.loc["opened", "ints/max"] == 1_704_067_200_000_000


def test_profiles_of_pieces_merge_to_the_profile_of_the_whole(contract: Contract) -> None:
    """Counts, means and extremes of merged profiles equal those of one profile over all rows."""
    table = rows(3_000)
    whole = profiles.read(profiles.profile(table, contract)).to_pandas()
    pieces = [profiles.profile(table.slice(start, 700), contract) for start in range(0, 3_000, 700)]
    merged = profiles.read(profiles.merge(pieces)).to_pandas()
    for name in ("counts/n", "counts/null", "types/string", "types/integral", "distribution/min", "distribution/max"):
        assert merged[name].equals(whole[name]) or np.array_equal(merged[name], whole[name], equal_nan=True), name
    assert merged["distribution/mean"].astype(float).to_numpy() == pytest.approx(
        whole["distribution/mean"].astype(float), nan_ok=True
    )


def test_profiles_made_in_several_threads_lose_no_counts(contract: Contract) -> None:
    """Each call owns its profile, so parallel calls count everything."""
    table = rows(4_000)
    with ThreadPoolExecutor(4) as pool:
        views = list(
            pool.map(lambda seed: profiles.profile(table.slice(seed, 1_000), contract), range(0, 4_000, 1_000))
        )
    assert counted(profiles.merge(views)) == dict.fromkeys(TYPES, (4_000, 1_000))


def test_a_profile_file_is_whole_or_absent_and_read_back(contract: Contract, tmp_path: Path) -> None:
    """Writing replaces the file at once, and a truncated or foreign file is reported by name."""
    view = profiles.profile(rows(100), contract)
    target = tmp_path / "deep" / "day.bin"
    profiles.write(target, view)
    assert counted(target.read_bytes()) == counted(view)
    assert [p.name for p in target.parent.iterdir()] == ["day.bin"]
    assert profiles.read(target).get_column("amount") is not None
    target.write_bytes(view[: len(view) // 2])
    with pytest.raises(SourceError, match=r"day\.bin is no whylogs profile"):
        profiles.read(target)
    with pytest.raises(SourceError, match="no profile to merge"):
        profiles.merge([])


def test_a_missing_column_is_named(contract: Contract) -> None:
    """Rows without a feature of the contract are refused."""
    with pytest.raises(SchemaError, match="no column 'amount'"):
        profiles.profile(rows(10).drop_columns(["amount"]), contract)


def test_empty_data_gives_an_empty_profile(contract: Contract) -> None:
    """Nothing seen is a view with zero counts, not an error."""
    assert set(counted(profiles.profile(rows(0), contract)).values()) == {(0, 0)}


def test_whylogs_is_told_to_report_nothing(contract: Contract) -> None:
    """Usage reports are off before whylogs is imported."""
    profiles.profile(rows(4), contract)
    from whylogs.api import usage_stats

    assert usage_stats._TELEMETRY_DISABLED is True
