"""The definition of a feature value in plain SQL: every question against every row, one clause per word of the definition.

Slow, and meant to be read. It shares no code with what it judges.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from tests.laws.worlds import World

FUNCTIONS = {
    "count": "count({v})",
    "sum": "coalesce(sum({v}), 0)",
    "mean": "avg({v})",
    "min": "min({v})",
    "max": "max({v})",
    "std": "stddev_samp({v})",
    "var": "var_samp({v})",
    "last": "last({v} ORDER BY ts, kt, pos) FILTER ({v} IS NOT NULL)",
    "count_distinct": "count(DISTINCT {v})",
}


def expected(world: World) -> pa.Table:
    """The view's features for every question, in order."""
    connection = duckdb.connect()
    rows = world.rows.append_column("pos", pa.array(range(world.rows.num_rows), pa.int64()))
    asked = world.asked.append_column("row", pa.array(range(world.asked.num_rows), pa.int64()))
    connection.register("given_rows", rows)
    connection.register("given_asked", asked)
    knowledge = "epoch_us(kt)" if "kt" in rows.column_names else "epoch_us(ts)"
    others = ", ".join([*(k.column for k in world.view.join_keys), "n", "s", "pos"])
    number = "CASE WHEN isnan(x) THEN NULL ELSE x END"
    connection.execute(
        f"CREATE TABLE source AS SELECT {others}, epoch_us(ts) AS ts, {knowledge} AS kt, {number} AS x FROM given_rows"
    )
    connection.execute('CREATE TABLE asked AS SELECT * EXCLUDE ("at"), epoch_us("at") AS t FROM given_asked')
    query = _windowed(world) if world.view.windowed else _plain(world)
    return connection.sql(query).to_arrow_table()


def _known(world: World) -> str:
    """When a row counts for a question at all: same key, and known at its moment."""
    keys = " AND ".join(f"source.{k.column} = asked.{k.request}" for k in world.view.join_keys)
    hidden = " AND source.kt <= asked.t" if world.knowledge else ""
    return f"{keys} AND source.ts <= asked.t{hidden}"


def _plain(world: World) -> str:
    view = world.view
    fresh = f"asked.t - newest.ts <= {view.ttl}" if view.ttl else "true"
    features = ", ".join(f"CASE WHEN {fresh} THEN newest.{f.name} END AS {f.name}" for f in view.features)
    return f"""
        WITH newest AS (
            SELECT asked.row, source.*
            FROM asked JOIN source ON {_known(world)}
            QUALIFY row_number() OVER (PARTITION BY asked.row ORDER BY source.ts DESC, source.kt DESC, source.pos DESC) = 1
        )
        SELECT {features} FROM asked LEFT JOIN newest USING (row) ORDER BY row
    """


def _windowed(world: World) -> str:
    view = world.view
    tables, features = [], []
    for number, a in enumerate(view.aggregations):
        # In integers: a row is in the window when its bucket comes after that of the window's start.
        bucket, start = f"(source.ts // {view.hop})", f"((asked.t - {a.window}) // {view.hop})"
        value = (
            FUNCTIONS[a.function]
            .format(v=f"source.{a.column}")
            .replace("ts, kt, pos", "source.ts, source.kt, source.pos")
        )
        tables.append(
            f"w{number} AS (SELECT asked.row, {value} AS value FROM asked LEFT JOIN source "
            f"ON {_known(world)} AND {bucket} > {start} GROUP BY asked.row)"
        )
        features.append(f'CASE WHEN fresh THEN w{number}.value END AS "{a.name}"')
    fresh = f"coalesce(bool_or(asked.t - source.ts <= {view.ttl}), true)" if view.ttl else "true"
    tables.append(
        f"age AS (SELECT asked.row, {fresh} AS fresh FROM asked LEFT JOIN source ON {_known(world)} GROUP BY asked.row)"
    )
    joins = " ".join(f"JOIN w{n} USING (row)" for n in range(len(features)))
    return f"WITH {', '.join(tables)} SELECT {', '.join(features)} FROM age {joins} ORDER BY row"
