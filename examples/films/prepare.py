"""Writes films and how they were reviewed, 1940 to 2014: ``python prepare.py FOLDER [--small]``.

One Parquet file for each table of ``feature_repo/definitions.py``. The rows come from the SQLite database of films (from Wikidata) in the
package ``bokeh_sampledata``, which is read without importing it.
"""

import argparse
import sqlite3
from importlib.metadata import distribution
from pathlib import Path

import polars as pl

REVIEWED = pl.duration(days=30)
"""How long after its release the reviews of a film are taken to be known; the database does not say."""

FRESH = 60
"""Share of favourable reviews, in percent, from which on a film is called fresh."""

SMALL_FROM = 2010
"""First year of the slice."""

QUERY = """
    SELECT ID, Title, Year, Released, Director, Genre, "Cast", Runtime, Meter, Fresh, Rotten
    FROM omdb JOIN tomatoes USING (ID)
    WHERE Director <> '' AND Meter IS NOT NULL AND Fresh IS NOT NULL
"""


def read() -> pl.DataFrame:
    """The films in the order of their release.

    January 1st stands for a film of which only the year is known. Such a film counts from the end of its year, which is never too early.
    """
    database = distribution("bokeh_sampledata").locate_file("bokeh_sampledata/_data/movies.db")
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = pl.read_database(QUERY, connection, infer_schema_length=None)
    finally:
        connection.close()
    day = pl.col("Released").str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="UTC")
    genres = names("Genre")
    return rows.select(
        film_id="ID",
        title="Title",
        year="Year",
        director="Director",
        genre=genres.list.first().fill_null("Unknown"),
        genres=genres,
        cast=names("Cast"),
        minutes="Runtime",
        meter="Meter",
        votes=pl.concat_list("Fresh", "Rotten"),
        fresh=(pl.col("Meter") >= FRESH).cast(pl.Int8),
        dated=~pl.col("Released").str.ends_with("-01-01"),
        released_at=pl.when(pl.col("Released").str.ends_with("-01-01")).then(day.dt.offset_by("1y")).otherwise(day),
    ).sort("released_at", "film_id")


def names(column: str) -> pl.Expr:
    """The names in a text such as ``Comedy, Drama``; an empty list for an empty text."""
    return pl.col(column).str.split(", ").list.filter(pl.element() != "")


def tables(small: bool) -> dict[str, pl.DataFrame]:
    """The rows of each table: films with a known day of release are scored, all count in the history."""
    films = read()
    if small:
        films = films.filter(pl.col("year") >= SMALL_FROM)
    asked = ("film_id", "title", "director", "genre", "genres", "cast", "minutes", "released_at")
    reviewed = ("film_id", "title", "director", "genre", "genres", "cast", "meter", "votes", "fresh", "released_at")
    known, late = pl.col("released_at") + pl.duration(microseconds=1), pl.col("released_at") + REVIEWED
    return {
        "films": films.filter("dated").select(*asked, known_at=known),
        "reviews": films.select(*reviewed, known_at=late),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="five years, for tests")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables(given.small).items():
        rows.write_parquet(given.folder / f"{name}.parquet")
