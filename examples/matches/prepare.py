"""Writes the matches of the first German football league, 1963 to 2009: ``python prepare.py FOLDER [--small]``.

One Parquet file for each table of ``feature_repo/definitions.py``. The rows come from the archive of CSV files in the package
``pydataset``, which is read without importing it: importing it unpacks the archive into the home folder.
"""

import argparse
import tarfile
from importlib.metadata import distribution
from pathlib import Path

import polars as pl

PLAYED = pl.duration(hours=2)
"""How long after its kick-off the result of a match is known."""

SMALL_FROM = 2003
"""First season of the slice."""


def read() -> pl.DataFrame:
    """The matches in the order of their kick-offs; two of 14,018 have no date and are left out.

    The package's times are local times of another country than Germany (most matches start at 09:30, which was 15:30). They are taken
    for UTC as they stand: order and distances of the matches are what counts.
    """
    archive = distribution("pydataset").locate_file("pydataset/resources.tar.gz")
    with tarfile.open(str(archive)) as files:
        member = files.extractfile("resources/rdata/csv/vcd/Bundesliga.csv")
        if member is None:
            raise FileNotFoundError(f"{archive} holds no Bundesliga.csv")
        rows = pl.read_csv(member.read(), null_values="NA", infer_schema_length=None)
    return (
        rows.rename({"": "match_id", "Year": "season", "Round": "round"})
        .with_columns(kick_off=pl.col("Date").str.to_datetime(time_unit="us", time_zone="UTC"))
        .drop_nulls("kick_off")
        .with_columns(over=pl.col("kick_off") + PLAYED)
        .sort("kick_off", "match_id")
    )


def seen_from(matches: pl.DataFrame, own: str, other: str) -> pl.DataFrame:
    """A row for each match, as the team of the side ``own`` (``Home`` or ``Away``) saw it."""
    scored, against = pl.col(f"{own}Goals"), pl.col(f"{other}Goals")
    points = pl.when(scored > against).then(3).when(scored == against).then(1).otherwise(0)
    return matches.select(
        result_id=pl.format("{} {}", "match_id", pl.lit(own.lower())),
        team=f"{own}Team",
        opponent=f"{other}Team",
        goals_for=scored,
        goals_against=against,
        points=points.cast(pl.Int64),
        points_at_home=(points if own == "Home" else pl.lit(None)).cast(pl.Int64),
        points_away=(points if own == "Away" else pl.lit(None)).cast(pl.Int64),
        kick_off="kick_off",
        known_at="over",
    )


def tables(small: bool) -> dict[str, pl.DataFrame]:
    """The rows of each table."""
    matches = read()
    if small:
        matches = matches.filter(pl.col("season") >= SMALL_FROM)
    teams = {"home_team": "HomeTeam", "away_team": "AwayTeam"}
    results = pl.concat([seen_from(matches, "Home", "Away"), seen_from(matches, "Away", "Home")])
    return {
        "fixtures": matches.select("match_id", "round", "kick_off", **teams).with_columns(
            known_at=pl.col("kick_off") + pl.duration(microseconds=1)
        ),
        "results": results.sort("kick_off", "result_id"),
        "outcomes": matches.select(
            "match_id",
            "kick_off",
            **teams,
            goal_difference=pl.col("HomeGoals") - pl.col("AwayGoals"),
            home_win=(pl.col("HomeGoals") > pl.col("AwayGoals")).cast(pl.Int8),
            known_at="over",
        ),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="six seasons, for tests")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables(given.small).items():
        rows.write_parquet(given.folder / f"{name}.parquet")
